// The head of every screen: where one is, whether it is true, and who one is.

import type { ReactNode } from 'react';
import { Link, useLocation } from 'wouter';
import { ring } from '../board/sound';
import { Icon, type IconName } from '../look/icon';
import { prefer } from '../look/preferences';
import { prepare } from '../texts/texts';
import { Menu, MenuChoice, MenuItem, MenuLine, MenuSwitch } from './dialog';
import { useName } from './name';
import { useAuth, useMay, useMe, usePreferences, useTexts } from './use';

export function Header({ shop, name, badge, onHelp }: { shop: string | null; name: string | null; badge?: ReactNode; onHelp: () => void }) {
  const texts = useTexts();
  const auth = useAuth();
  const me = useMe();
  const named = useName();
  const mayInspect = useMay('inspect');
  const preferred = usePreferences();
  const [path, go] = useLocation();
  const many = me.all_shops || me.shops.length > 1;
  const at = path === '/operations' ? 'operations' : path.endsWith('/history') ? 'history' : 'board';

  const place = (to: string, key: typeof at, icon: IconName, text: string) => (
    <Link href={to} className="nav-link" aria-current={at === key && path !== '/' ? 'page' : undefined} aria-label={text}>
      <Icon name={icon} />
      <span className="nav-text">{text}</span>
    </Link>
  );
  return (
    <header className="head">
      <a className="skip" href="#content">
        {texts.skipToContent}
      </a>
      <div className="head-inner">
        <Link href="/" className="brand" aria-label={texts.appName}>
          <img src="/icon.svg" alt="" width="28" height="28" />
        </Link>
        {shop === null ? (
          <span className="shop-name">{texts.appName}</span>
        ) : many ? (
          <Link href="/?choose" className="shop-name shop-switch" title={texts.nav.switchShop}>
            <bdi>{name ?? `${texts.nav.shop} ${shop.slice(0, 8)}`}</bdi>
            <Icon name="chevron" />
          </Link>
        ) : (
          <span className="shop-name">
            <bdi>{name ?? `${texts.nav.shop} ${shop.slice(0, 8)}`}</bdi>
          </span>
        )}
        <nav className="nav" aria-label={texts.nav.label}>
          {shop === null ? null : place(`/shops/${shop}`, 'board', 'live', texts.nav.board)}
          {shop === null ? null : place(`/shops/${shop}/history`, 'history', 'history', texts.nav.history)}
          {mayInspect ? place('/operations', 'operations', 'layers', texts.nav.operations) : null}
        </nav>
        <span className="head-space" />
        {badge}
        <Menu
          label={texts.nav.menu}
          trigger={
            <button type="button" className="button quiet icon-only" aria-label={texts.nav.menu}>
              <Icon name="menu" />
            </button>
          }
        >
          <div className="menu-who">
            <bdi>{texts.nav.signedInAs(named.name ?? me.subject ?? texts.unknown, texts.roles[me.role] ?? me.role)}</bdi>
          </div>
          <MenuLine />
          <MenuChoice
            label={texts.nav.theme}
            value={preferred.theme}
            onChoose={(theme) => prefer({ theme })}
            choices={[
              ['system', texts.nav.themeSystem],
              ['light', texts.nav.themeLight],
              ['dark', texts.nav.themeDark],
            ]}
          />
          <MenuLine />
          <MenuChoice
            label={texts.nav.language}
            value={preferred.language}
            onChoose={(language) => void prepare(language).then(() => prefer({ language }))}
            choices={[
              ['system', texts.nav.languageSystem],
              ['en', texts.languages.en ?? 'en'],
              ['de', texts.languages.de ?? 'de'],
            ]}
          />
          <MenuLine />
          <MenuSwitch
            checked={preferred.sound}
            onChange={(sound) => {
              prefer({ sound });
              // So that one knows it, and since browsers play nothing before somebody has clicked.
              if (sound) ring();
            }}
          >
            {texts.nav.sound}
          </MenuSwitch>
          <MenuSwitch checked={preferred.keys} onChange={(keys) => prefer({ keys })}>
            {texts.nav.keys}
          </MenuSwitch>
          <MenuLine />
          {many ? (
            <MenuItem icon="shop" onClick={() => go('/?choose')}>
              {texts.nav.switchShop}
            </MenuItem>
          ) : null}
          <MenuItem icon="help" onClick={onHelp}>
            {texts.nav.help}
          </MenuItem>
          {auth.config?.auth.kind === 'off' ? null : (
            <MenuItem icon="signOut" onClick={() => auth.leave()}>
              {texts.nav.signOut}
            </MenuItem>
          )}
        </Menu>
      </div>
    </header>
  );
}
