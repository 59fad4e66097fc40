// Signing in, in the way in which the service is set up.

import { type FormEvent, type ReactNode, useState } from 'react';
import { useTitle } from '../shell/title';
import { tell, useAuth, useTexts } from '../shell/use';
import type { AuthConfig, Role } from '../api/types';
import type { Why } from './auth';

export function SignInPage({ why }: { why: Why }) {
  const texts = useTexts();
  const auth = useAuth();
  const kind = auth.config?.auth.kind;
  useTitle(texts.signIn.title);
  return (
    <main className="sign-in" id="content">
      <div className="sign-in-card">
        <div className="sign-in-brand">
          <img src="/icon.svg" alt="" width="44" height="44" />
          <span>{texts.appName}</span>
        </div>
        <h1>{texts.signIn.title}</h1>
        <p className="lead">{texts.signIn.lead}</p>
        {why === null ? null : (
          <p className={why === 'ended' ? 'note' : 'note warn'} role="status">
            {texts.signIn.reasons[why]}
          </p>
        )}
        {kind === 'dev' && auth.config !== null ? <Dev config={auth.config.auth as Extract<AuthConfig, { kind: 'dev' }>} /> : null}
        {kind === 'firebase' && auth.config !== null ? <Firebase config={auth.config.auth as Extract<AuthConfig, { kind: 'firebase' }>} /> : null}
        {kind === 'oidc' && auth.config !== null ? <Oidc config={auth.config.auth as Extract<AuthConfig, { kind: 'oidc' }>} /> : null}
        {kind === 'token' ? <Token /> : null}
      </div>
    </main>
  );
}

/** Runs what signs in, and says what went wrong. */
function useSigningIn(): { busy: boolean; problem: string | null; run: (task: () => Promise<void>, text: (error: unknown) => string) => void; say: (text: string | null) => void } {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  return {
    busy,
    problem,
    say: setProblem,
    run: (task, text) => {
      setBusy(true);
      setProblem(null);
      task()
        .catch((error: unknown) => setProblem(text(error)))
        .finally(() => setBusy(false));
    },
  };
}

function Said({ children }: { children: ReactNode }) {
  return children === null ? null : (
    <p className="note warn" role="alert">
      {children}
    </p>
  );
}

function Dev({ config }: { config: Extract<AuthConfig, { kind: 'dev' }> }) {
  const texts = useTexts();
  const auth = useAuth();
  const { busy, problem, run } = useSigningIn();
  const [place, setPlace] = useState<'usual' | 'demo' | 'all' | 'other'>(config.shop === null ? 'all' : 'usual');
  const [other, setOther] = useState('');
  const shopOf = (role: Role) => {
    if (place === 'other') return other.trim();
    // How the system runs is for those who look after all shops.
    const isForAll = place === 'all' || (place === 'usual' && role !== 'merchant');
    return isForAll ? '*' : (config.shop ?? '*');
  };
  return (
    <>
      <h2>{texts.signIn.devTitle}</h2>
      <p className="hint">{texts.signIn.devLead}</p>
      <label className="field">
        <span>{texts.signIn.devShop}</span>
        <select value={place} onChange={(event) => setPlace(event.target.value as typeof place)}>
          {config.shop === null ? null : <option value="usual">{texts.signIn.devUsual}</option>}
          {config.shop === null ? null : <option value="demo">{texts.signIn.devDemoShop}</option>}
          <option value="all">{texts.signIn.devAllShops}</option>
          <option value="other">{texts.signIn.devOtherShop}</option>
        </select>
      </label>
      {place === 'other' ? (
        <label className="field">
          <span>{texts.shops.byId}</span>
          <input value={other} onChange={(event) => setOther(event.target.value)} spellCheck={false} autoComplete="off" placeholder="123e4567-e89b-42d3-a456-426614174000" />
        </label>
      ) : null}
      <ul className="plain people">
        {config.people.map((person) => (
          <li key={`${person.name} ${person.role}`}>
            <button type="button" className="person" disabled={busy || shopOf(person.role) === ''} onClick={() => run(() => auth.be(person, shopOf(person.role)), (error) => tell(error, texts))}>
              <span className="face" aria-hidden="true">
                {person.name.slice(0, 1)}
              </span>
              <span className="person-text">
                <strong>{person.name}</strong>
                <span className="person-role">{texts.roles[person.role] ?? person.role}</span>
                <span className="hint">{texts.signIn.roleHints[person.role]}</span>
              </span>
            </button>
          </li>
        ))}
      </ul>
      <Said>{problem}</Said>
    </>
  );
}

function Token() {
  const texts = useTexts();
  const auth = useAuth();
  const enter = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const token = String(new FormData(event.currentTarget).get('token'))
      .trim()
      .replace(/^bearer\s+/i, '');
    if (token !== '') void auth.enter({ token, renew: null });
  };
  return (
    <form onSubmit={enter}>
      <label className="field">
        <span>{texts.signIn.token}</span>
        <textarea name="token" rows={4} required spellCheck={false} autoComplete="off" className="mono" />
      </label>
      <p className="hint">{texts.signIn.tokenHint}</p>
      <button type="submit" className="button primary large">
        {texts.signIn.signIn}
      </button>
    </form>
  );
}

function Firebase({ config }: { config: Extract<AuthConfig, { kind: 'firebase' }> }) {
  const texts = useTexts();
  const auth = useAuth();
  const { busy, problem, run, say } = useSigningIn();
  const [sent, setSent] = useState(false);
  const load = async () => {
    const firebase = await import('./firebase');
    firebase.begin(config);
    return firebase;
  };
  const why = (error: unknown) => texts.signIn.firebaseErrors[(error as { code?: string }).code ?? ''] ?? texts.signIn.firebaseOther;
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const form = new FormData(event.currentTarget);
        run(async () => {
          const { signIn } = await load();
          await auth.enter(await signIn(String(form.get('email')), String(form.get('password'))));
        }, why);
      }}
    >
      <label className="field">
        <span>{texts.signIn.email}</span>
        <input type="email" name="email" required autoComplete="username" />
      </label>
      <label className="field">
        <span>{texts.signIn.password}</span>
        <input type="password" name="password" required autoComplete="current-password" />
      </label>
      <Said>{problem}</Said>
      {sent ? (
        <p className="note" role="status">
          {texts.signIn.resetSent}
        </p>
      ) : null}
      <button type="submit" className="button primary large" disabled={busy}>
        {busy ? texts.signIn.signingIn : texts.signIn.signIn}
      </button>
      <button
        type="button"
        className="button quiet"
        disabled={busy}
        onClick={(event) => {
          const email = String(new FormData(event.currentTarget.form ?? undefined).get('email') ?? '');
          if (email === '') say(texts.signIn.emailFirst);
          else
            run(async () => {
              const { resetPassword } = await load();
              await resetPassword(email);
              setSent(true);
            }, why);
        }}
      >
        {texts.signIn.forgot}
      </button>
    </form>
  );
}

function Oidc({ config }: { config: Extract<AuthConfig, { kind: 'oidc' }> }) {
  const texts = useTexts();
  const { busy, problem, run } = useSigningIn();
  const back = location.pathname === '/sign-in' ? '/' : location.pathname + location.search;
  return (
    <>
      <Said>{problem}</Said>
      <button
        type="button"
        className="button primary large"
        disabled={busy}
        onClick={() =>
          run(
            async () => {
              const { leave } = await import('./oidc');
              await leave(config, back);
            },
            () => texts.signIn.oidcFailed,
          )
        }
      >
        {texts.signIn.oidc(hostOf(config.issuer))}
      </button>
    </>
  );
}

function hostOf(url: string): string {
  try {
    return new URL(url).host;
  } catch {
    return url;
  }
}
