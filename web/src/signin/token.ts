// What a token says of itself. It is only read to know when to renew it; the service decides whether it counts.

export interface Claims {
  exp?: number;
  sub?: string;
  name?: string;
}

export function claimsOf(token: string): Claims {
  const part = token.split('.')[1];
  if (part === undefined) return {};
  try {
    const bytes = Uint8Array.from(atob(part.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === 'object' && claims !== null ? (claims as Claims) : {};
  } catch {
    return {};
  }
}

/** The token of a link, which is taken out of the address at once, so that nobody copies or bookmarks it. */
export function takeTokenOfLink(place: Location, history: History): string | null {
  const fragment = new URLSearchParams(place.hash.slice(1));
  const token = fragment.get('token');
  if (token === null) return null;
  fragment.delete('token');
  const rest = fragment.toString();
  history.replaceState(history.state, '', `${place.pathname}${place.search}${rest === '' ? '' : `#${rest}`}`);
  return token.trim() === '' ? null : token.trim();
}
