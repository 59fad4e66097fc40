import react from '@vitejs/plugin-react';
import { gzipSync } from 'node:zlib';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

// The service of `make run`, which `npm run dev` passes everything on to that is not of the page.
const service = process.env.EZOUT_SERVICE ?? 'http://127.0.0.1:8000';
const passedOn = ['/v1', '/config.json', '/dev', '/docs', '/openapi.json', '/asyncapi.json', '/problems', '/publish', '/send'];

/** Most bytes of script, compressed, that are loaded before anything is shown. */
const FIRST_SCRIPT_MAX = 200_000;

/** Fails a build in which the first screen needs more script than that: the entry, and all that it imports, which the page preloads. */
const smallFirst: Plugin = {
  name: 'small-first',
  apply: 'build',
  generateBundle: {
    order: 'post',
    handler(_, bundle) {
      const first = new Set(Object.values(bundle).flatMap((file) => (file.type === 'chunk' && file.isEntry ? [file.fileName] : [])));
      let bytes = 0;
      // Grows while it is gone through.
      for (const name of first) {
        const file = bundle[name];
        if (file?.type !== 'chunk') continue;
        bytes += gzipSync(file.code, { level: 9 }).length;
        for (const imported of file.imports) first.add(imported);
      }
      if (bytes === 0 || bytes > FIRST_SCRIPT_MAX) this.error(`the first screen needs ${bytes} bytes of compressed script of at most ${FIRST_SCRIPT_MAX}`);
    },
  },
};

// The files have fixed names, so that each build of the same source gives the same bytes under the same names; the service tells
// their versions apart by ETag.
export default defineConfig({
  plugins: [react(), smallFirst],
  server: { host: '127.0.0.1', proxy: Object.fromEntries(passedOn.map((path) => [path, { target: service }])) },
  build: {
    outDir: 'dist',
    target: 'es2022',
    cssCodeSplit: false,
    // An inlined picture would be one that the policy of the page has to allow.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    chunkSizeWarningLimit: 700,
    rolldownOptions: {
      output: {
        entryFileNames: 'app.js',
        // A screen is named by its folder: each is called `page` in there.
        chunkFileNames: (chunk) => {
          const folder = /([^/]+)\/page\.tsx$/.exec(chunk.facadeModuleId ?? '')?.[1];
          return `assets/${folder ?? '[name]'}.js`;
        },
        assetFileNames: (asset) => (asset.names.some((name) => name.endsWith('.css')) ? 'app.css' : 'assets/[name][extname]'),
      },
    },
  },
  test: { environment: 'node', include: ['test/**/*.test.ts'] },
});
