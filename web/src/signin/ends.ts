// Which answers to a renewal end a sign-in. After any other it is asked again: an issuer that is overloaded, or set up anew, may give a
// token in a moment, and until then the one that is there may still count.

/** Whether an OIDC issuer will not renew it without the person. */
export function endsAtIssuer(error: string | null): boolean {
  return error === 'invalid_grant' || error === 'login_required' || error === 'interaction_required';
}

/** Whether the account is no more, or its sign-in is not, as Firebase says. */
export function endsAtFirebase(code: string): boolean {
  return code.startsWith('auth/user-') || code === 'auth/invalid-user-token';
}
