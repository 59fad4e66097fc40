// The page: who is signed in, and which screen the address names.

import { useQueryClient } from '@tanstack/react-query';
import { lazy, type ReactNode, Suspense, useEffect, useRef, useState } from 'react';
import { Link, Route, Switch, useLocation, useSearch } from 'wouter';
import { serverNow } from '../api/clock';
import { isShopId } from '../api/ids';
import { useAttention } from '../board/attention';
import { BoardPage } from '../board/page';
import { ShopsPage } from '../signin/shops';
import { SignInPage } from '../signin/page';
import { Badge } from './badge';
import { Header } from './header';
import { Help } from './help';
import { useKeys } from './keys';
import { last } from './left';
import { NameProvider } from './name';
import { useNotices } from './notices';
import { ShopProvider, useShop } from './shop';
import { Boundary, Empty, Failed, Loading } from './states';
import { useTitle } from './title';
import { useAuth, useAuthState, useMay, useMe, useTexts } from './use';

// The board is what people wait for; the other screens are loaded when they are wanted.
const basketPage = () => import('../basket/page');
const BasketPage = lazy(() => basketPage().then((page) => ({ default: page.BasketPage })));
const HistoryPage = lazy(() => import('../history/page').then((page) => ({ default: page.HistoryPage })));
const OperationsPage = lazy(() => import('../operations/page').then((page) => ({ default: page.OperationsPage })));

export function App() {
  const auth = useAuth();
  const state = useAuthState();
  const texts = useTexts();
  const cache = useQueryClient();
  useEffect(() => {
    // Nothing of one person stays for the next.
    if (state.stage === 'signed_out' || state.stage === 'signing_in') cache.clear();
  }, [state.stage, cache]);
  switch (state.stage) {
    case 'starting':
      return <Middle><Loading text={texts.signIn.starting} /></Middle>;
    case 'signing_in':
      return <Middle><Loading text={texts.signIn.signingIn} /></Middle>;
    case 'failed':
      return (
        <Middle>
          <Failed title={texts.signIn.cannotStart} error={state.error} hint={texts.signIn.cannotStartHint} onRetry={() => void auth.again()} />
        </Middle>
      );
    case 'signed_out':
      return <SignInPage why={state.why} />;
    case 'signed_in':
      return (
        <NameProvider key={state.me.subject ?? ''}>
          <Pages />
        </NameProvider>
      );
  }
}

function Middle({ children }: { children: ReactNode }) {
  return <main className="middle" id="content">{children}</main>;
}

function Pages() {
  useEndOfToken();
  return (
    <Switch>
      <Route path="/shops/:shop/baskets/:session">
        {(params) => <OfShop shop={params.shop}><BasketPage key={params.session} session={params.session.toLowerCase()} /></OfShop>}
      </Route>
      <Route path="/shops/:shop/history">{(params) => <OfShop shop={params.shop}><HistoryPage /></OfShop>}</Route>
      <Route path="/shops/:shop">{(params) => <OfShop shop={params.shop}><BoardPage /></OfShop>}</Route>
      <Route path="/operations"><Plain><Inspect /></Plain></Route>
      <Route path="/"><Start /></Route>
      <Route path="/sign-in"><Start /></Route>
      <Route><Plain><NoPage /></Plain></Route>
    </Switch>
  );
}

function Inspect() {
  return useMay('inspect') ? <OperationsPage /> : <NoPage />;
}

function NoPage() {
  const texts = useTexts();
  useTitle(texts.notFound.title);
  return (
    <Empty icon="help" title={texts.notFound.title} text={texts.notFound.text}>
      <a className="button" href="/">
        {texts.notFound.home}
      </a>
    </Empty>
  );
}

/** Somebody else's shop, or one that is no longer theirs: they stay signed in, and may look at others. */
function Denied() {
  const texts = useTexts();
  return (
    <Empty icon="shop" title={texts.denied.title} text={texts.denied.text}>
      <Link className="button" href="/?choose">
        {texts.denied.home}
      </Link>
    </Empty>
  );
}

/** With one shop there is nothing to choose. */
function Start() {
  const me = useMe();
  const search = useSearch();
  const [, go] = useLocation();
  const only = !me.all_shops && me.shops.length === 1 ? me.shops[0] : undefined;
  const wantsToChoose = new URLSearchParams(search).has('choose');
  const to = only !== undefined && !wantsToChoose ? `/shops/${only.shop_id}` : null;
  useEffect(() => {
    if (to !== null) go(to, { replace: true });
  }, [to, go]);
  return to === null ? <Plain><ShopsPage /></Plain> : null;
}

function Plain({ children }: { children: ReactNode }) {
  const me = useMe();
  const shop = me.shops.find((one) => one.shop_id === last.shop);
  return <Frame shop={last.shop} name={shop?.name ?? null}>{children}</Frame>;
}

function OfShop({ shop, children }: { shop: string; children: ReactNode }) {
  const id = shop.toLowerCase();
  if (!isShopId(id)) return <Plain><NoPage /></Plain>;
  return (
    <ShopProvider key={id} id={id}>
      <ShopFrame>{children}</ShopFrame>
    </ShopProvider>
  );
}

function ShopFrame({ children }: { children: ReactNode }) {
  const { shop, denied } = useShop();
  useAttention();
  useEffect(() => {
    // A shop that one may not see is not one to come back to.
    last.shop = denied ? null : shop.shop_id;
  }, [denied, shop.shop_id]);
  if (denied) return <Frame shop={null} name={null}><Denied /></Frame>;
  return <Frame shop={shop.shop_id} name={shop.name} badge={<Badge />}>{children}</Frame>;
}

/** Another screen begins at its top, and with the focus on it; one that is gone back to is where it was. */
function useScreens(path: string): void {
  const before = useRef(path);
  const isBack = useRef(false);
  useEffect(() => {
    const back = () => {
      isBack.current = true;
    };
    addEventListener('popstate', back);
    return () => removeEventListener('popstate', back);
  }, []);
  useEffect(() => {
    if (before.current === path) return;
    before.current = path;
    if (!isBack.current) scrollTo(0, 0);
    isBack.current = false;
    document.getElementById('content')?.focus({ preventScroll: true });
  }, [path]);
}

const SOON_OVER_MS = 5 * 60_000;

/** Says that a sign-in ends soon that nothing renews, before it interrupts somebody. */
function useEndOfToken(): void {
  const auth = useAuth();
  const texts = useTexts();
  const { notify } = useNotices();
  const said = useRef(false);
  useEffect(() => {
    const look = () => {
      const end = auth.expiresAt();
      if (said.current || end === null || auth.renews || end - serverNow() > SOON_OVER_MS) return;
      said.current = true;
      notify(texts.signIn.endsSoon(texts.age((end - serverNow()) / 1000)), { kind: 'bad' });
    };
    look();
    const timer = setInterval(look, 15_000);
    return () => clearInterval(timer);
  }, [auth, texts, notify]);
}

function Frame({ shop, name, badge, children }: { shop: string | null; name: string | null; badge?: ReactNode; children: ReactNode }) {
  const texts = useTexts();
  const [help, setHelp] = useState(false);
  const [path, go] = useLocation();
  const mayInspect = useMay('inspect');
  useScreens(path);
  useKeys({
    '?': () => setHelp(true),
    '/': () => document.querySelector<HTMLInputElement>('input[type=search]')?.focus(),
    'g l': () => shop !== null && go(`/shops/${shop}`),
    'g h': () => shop !== null && go(`/shops/${shop}/history`),
    'g o': () => mayInspect && go('/operations'),
  });
  return (
    <>
      <Header shop={shop} name={name} badge={badge} onHelp={() => setHelp(true)} />
      <main id="content" className="content" tabIndex={-1} onPointerDown={() => void basketPage()}>
        <Boundary key={path} texts={{ title: texts.problems.brokenTitle, text: texts.problems.brokenText, reload: texts.problems.reload }}>
          <Suspense fallback={<Loading />}>{children}</Suspense>
        </Boundary>
      </main>
      <Help open={help} onClose={() => setHelp(false)} />
    </>
  );
}
