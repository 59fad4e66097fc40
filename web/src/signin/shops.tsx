// The choice of a shop, for those who have more than one.

import { type FormEvent, useMemo, useState } from 'react';
import { Link, useLocation } from 'wouter';
import { isShopId } from '../api/ids';
import { Icon } from '../look/icon';
import { Empty } from '../shell/states';
import { useTitle } from '../shell/title';
import { useMe, useTexts } from '../shell/use';

export function ShopsPage() {
  const texts = useTexts();
  useTitle(texts.shops.title);
  const me = useMe();
  const [, go] = useLocation();
  const [search, setSearch] = useState('');
  const [problem, setProblem] = useState(false);
  const found = useMemo(() => {
    const wanted = search.trim().toLowerCase();
    return me.shops.filter((shop) => `${shop.name ?? ''} ${shop.shop_id}`.toLowerCase().includes(wanted));
  }, [me.shops, search]);
  const byId = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const id = String(new FormData(event.currentTarget).get('id')).trim();
    if (isShopId(id)) go(`/shops/${id.toLowerCase()}`);
    else setProblem(true);
  };
  return (
    <div className="narrow">
      <h1>{texts.shops.title}</h1>
      {me.shops.length > 6 ? (
        <label className="field search">
          <span className="unseen">{texts.shops.search}</span>
          <Icon name="search" />
          <input type="search" value={search} placeholder={texts.shops.search} onChange={(event) => setSearch(event.target.value)} />
        </label>
      ) : null}
      {me.shops.length === 0 ? <Empty icon="shop" title={texts.shops.title} text={texts.shops.none} /> : null}
      {me.shops.length > 0 && found.length === 0 ? <p>{texts.shops.noMatch}</p> : null}
      <ul className="plain shop-list">
        {found.map((shop) => (
          <li key={shop.shop_id}>
            <Link href={`/shops/${shop.shop_id}`} className="shop-card">
              <Icon name="shop" />
              <span className="shop-card-text">
                <strong>
                  <bdi>{shop.name ?? `${texts.nav.shop} ${shop.shop_id.slice(0, 8)}`}</bdi>
                </strong>
                <span className="mono hint">{shop.shop_id}</span>
              </span>
              <span className="hint">{[shop.currency, shop.time_zone].filter((one) => one !== null).join(' · ')}</span>
            </Link>
          </li>
        ))}
      </ul>
      {me.more ? <p className="hint">{texts.shops.more}</p> : null}
      {me.all_shops ? (
        <form onSubmit={byId} className="inline-form">
          <label className="field">
            <span>{texts.shops.byId}</span>
            <input name="id" spellCheck={false} autoComplete="off" className="mono" aria-invalid={problem} onChange={() => setProblem(false)} />
          </label>
          <button type="submit" className="button">
            {texts.shops.open}
          </button>
          {problem ? (
            <p className="note warn" role="alert">
              {texts.shops.notAnId}
            </p>
          ) : null}
        </form>
      ) : null}
    </div>
  );
}
