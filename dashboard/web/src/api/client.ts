/** An answer that is not the data asked for: refused, failed, or none at all. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number | null,
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

const TIMEOUT_MS = 10_000;

export type Query = Record<string, string | number | null | undefined>;

export function apiUrl(path: string, query: Query = {}): string {
  const parts: string[] = [];
  for (const [key, value] of Object.entries(query)) {
    if (value === null || value === undefined) continue;
    parts.push(`${encodeURIComponent(key)}=${encodeURIComponent(value)}`);
  }
  return `/api/v1${path}${parts.length > 0 ? `?${parts.join('&')}` : ''}`;
}

/** One GET. Throws `ApiError` with a sentence for people; an abort by `signal` throws as it is. */
export async function getJson<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(apiUrl(path, query), {
      headers: { accept: 'application/json' },
      cache: 'no-store',
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    const text = await response.text();
    try {
      body = JSON.parse(text);
    } catch {
      body = undefined;
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    if (timeout.aborted) throw new ApiError(`no answer within ${TIMEOUT_MS / 1000} s`, null);
    throw new ApiError('the server cannot be reached', null);
  }
  if (!response.ok) throw new ApiError(errorText(response.status, body), response.status);
  if (body === undefined) throw new ApiError('the answer is not JSON', response.status);
  return body as T;
}

function errorText(status: number, body: unknown): string {
  const error = (body as { error?: { message?: unknown } } | undefined)?.error;
  return typeof error?.message === 'string' ? `${error.message} (${status})` : `the server answered ${status}`;
}
