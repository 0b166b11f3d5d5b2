import { defineConfig } from 'vitest/config';

export default defineConfig({
  build: {
    target: 'es2022',
    // Every browser that the target names preloads modules itself; the helper would be dead weight.
    modulePreload: { polyfill: false },
    // Inlined `data:` files would need a wider content security policy.
    assetsInlineLimit: 0,
  },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  server: {
    // `npm run dev` shows a running server's data: TIDEWATCH_URL=http://127.0.0.1:8080
    proxy: { '/api': process.env['TIDEWATCH_URL'] ?? 'http://127.0.0.1:8080' },
  },
  test: {
    environment: 'happy-dom',
    include: ['src/**/*.test.ts', 'src/**/*.test.tsx'],
    // A zone that is neither UTC nor a whole hour, without summer time.
    env: { TZ: 'Asia/Kolkata' },
  },
});
