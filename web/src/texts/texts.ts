// Which language the page speaks, and how it writes numbers.

import { preferences } from '../look/preferences';
import { en, type Texts } from './en';

export type Language = 'en' | 'de';

/** English is always there; another language is loaded where it is wanted. */
const loaded: Partial<Record<Language, Texts>> = { en };

export interface Spoken {
  language: Language;
  /** The reader's own locale where it is of that language. */
  locale: string;
  texts: Texts;
}

function offered(locale: string): Language | null {
  const language = locale.slice(0, 2).toLowerCase();
  return language === 'en' || language === 'de' ? language : null;
}

/** The language that somebody wants: the one that they chose, or the first of their browser's that is offered. */
export function languageOf(preferred: Language | 'system', wanted: readonly string[]): Language {
  return preferred !== 'system' ? preferred : (wanted.map(offered).find((known) => known !== null) ?? 'en');
}

/** Has the texts of the language there before it is spoken. */
export async function prepare(preferred: Language | 'system' = preferences().language, wanted: readonly string[] = navigator.languages): Promise<void> {
  if (languageOf(preferred, wanted) === 'de' && loaded.de === undefined) loaded.de = (await import('./de')).de;
}

export function spoken(preferred: Language | 'system' = preferences().language, wanted: readonly string[] = navigator.languages): Spoken {
  const asked = languageOf(preferred, wanted);
  const language = loaded[asked] === undefined ? 'en' : asked;
  const locale = wanted.find((one) => offered(one) === language) ?? language;
  return { language, locale, texts: loaded[language] ?? en };
}
