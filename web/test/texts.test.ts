// The catalogue of texts says what the page says, and nothing besides.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Problem } from '../src/api/problem';
import { tell } from '../src/shell/use';
import { de } from '../src/texts/de';
import { en } from '../src/texts/en';

const SOURCE = join(import.meta.dirname, '../src');

/** The page without its texts, as one. */
const page = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
  .filter((path) => /\.tsx?$/.test(path) && !path.startsWith('texts'))
  .map((path) => readFileSync(join(SOURCE, path), 'utf8'))
  .join('\n');

function isUsed(path: string[]): boolean {
  const named = path.join('\\.');
  // A group of texts is chosen from by a key, or handed on as a whole.
  const group = path.slice(0, -1).join('\\.');
  return new RegExp(`texts\\.${named}\\b`).test(page) || (path.length > 1 && new RegExp(`texts\\.${group}(?![\\w.?])`).test(page));
}

function unused(texts: object, path: string[] = []): string[] {
  return Object.entries(texts).flatMap(([key, text]: [string, unknown]) => {
    const at = [...path, key];
    if (typeof text === 'object' && text !== null && !Array.isArray(text)) return unused(text, at);
    return isUsed(at) ? [] : [at.join('.')];
  });
}

describe('the texts', () => {
  it('are all shown somewhere', () => {
    expect(unused(en)).toEqual([]);
  });

  it('are told for a code that has one, in place of the words of the service', () => {
    const errors = [
      { pointer: '/quantity', code: 'no_price', detail: 'English' },
      { pointer: '/x', code: 'unheard_of', detail: 'Words of the service.' },
    ];
    const problem = new Problem({ status: 422, code: 'invalid_body', detail: 'English', errors });
    expect(tell(problem, de)).toBe(`${de.problems.other} ${de.correct.problems.no_price}; Words of the service.`);
  });
});
