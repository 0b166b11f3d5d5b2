import { domain, setView, view } from '../model/store';
import { RANGES } from '../view/url';

/** The range of event time of strip and chart together. */
export function RangeTools() {
  const { rangeMinutes, end } = view.value;
  const rangeMs = rangeMinutes * 60_000;
  const move = (by: number): void => setView({ end: domain.value.to + by, window: null });
  return (
    <>
      <fieldset class="segmented">
        <legend class="hidden">Range of event time</legend>
        {RANGES.map((minutes) => (
          <button
            type="button"
            key={minutes}
            aria-pressed={minutes === rangeMinutes}
            onClick={() => setView({ rangeMinutes: minutes })}
          >
            {minutes === 60 ? '1 h' : `${minutes} min`}
          </button>
        ))}
      </fieldset>
      <fieldset class="segmented">
        <legend class="hidden">Move through event time</legend>
        <button type="button" onClick={() => move(-rangeMs / 2)} aria-label="Earlier">
          ◀
        </button>
        <button type="button" disabled={end === null} onClick={() => move(rangeMs / 2)} aria-label="Later">
          ▶
        </button>
        <button type="button" aria-pressed={end === null} onClick={() => setView({ end: null })}>
          Newest
        </button>
      </fieldset>
    </>
  );
}
