// Which language the page speaks, and how it writes numbers.

import { preferences } from '../look/preferences';
import { de } from './de';
import { en, type Texts } from './en';

const catalogue: Record<'en' | 'de', Texts> = { en, de };

export interface Spoken {
  language: 'en' | 'de';
  /** The reader's own locale where it is of that language. */
  locale: string;
  texts: Texts;
}

export function spoken(preferred = preferences().language, wanted: readonly string[] = navigator.languages): Spoken {
  const offered = (locale: string): 'en' | 'de' | null => {
    const language = locale.slice(0, 2).toLowerCase();
    return language === 'en' || language === 'de' ? language : null;
  };
  const language = preferred !== 'system' ? preferred : (wanted.map(offered).find((known) => known !== null) ?? 'en');
  const locale = wanted.find((one) => offered(one) === language) ?? language;
  return { language, locale, texts: catalogue[language] };
}
