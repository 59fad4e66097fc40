// What the page remembers of a person while they look around. Nothing of it is left for the next one at a shared tablet.

/** The shop that was looked at last, so that a screen without one knows the way back; and the basket, so that whoever comes back goes on there. */
export const last: { shop: string | null; basket: string | null } = { shop: null, basket: null };

const KEY = 'ezout.name';

/** The name that somebody gave in this tab. It is that of one subject only: a reload signs out, and the next may be somebody else. */
export function nameGiven(subject: string | null): string | null {
  try {
    const [of, name] = JSON.parse(sessionStorage.getItem(KEY) ?? '[]') as unknown[];
    return of === subject && typeof name === 'string' ? name : null;
  } catch {
    return null;
  }
}

export function giveName(subject: string | null, name: string): void {
  try {
    sessionStorage.setItem(KEY, JSON.stringify([subject, name]));
  } catch {
    // A browser that keeps nothing: it is asked for again.
  }
}

export function forgetPerson(): void {
  last.shop = null;
  last.basket = null;
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // Nothing is kept then.
  }
}

const SIGNED_OUT = 'ezout.signed-out';

/** Somebody has signed out by hand: whoever comes next in this browser has to say who they are, whomever the issuer still knows. */
export function haveSignedOut(): void {
  try {
    localStorage.setItem(SIGNED_OUT, 'yes');
  } catch {
    // A browser that keeps nothing.
  }
}

export function haveSignedIn(): void {
  try {
    localStorage.removeItem(SIGNED_OUT);
  } catch {
    // Nothing is kept then.
  }
}

export function mustAskAgain(): boolean {
  try {
    return localStorage.getItem(SIGNED_OUT) !== null;
  } catch {
    return false;
  }
}
