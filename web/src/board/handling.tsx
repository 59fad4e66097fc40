// "I'm on it": who handles a basket, and until when. Others see it at once; whoever is slower is asked before taking it over.

import { useState } from 'react';
import { serverNow } from '../api/clock';
import { hasCode } from '../api/problem';
import { time } from '../live/row';
import { Icon } from '../look/icon';
import { Dialog, Menu, MenuItem } from '../shell/dialog';
import { useName } from '../shell/name';
import { useNotices } from '../shell/notices';
import { useShop } from '../shell/shop';
import { tell, useClient, useMay, useNow, useTexts } from '../shell/use';

const MINUTES = 10;
const CHOICES = [5, 10, 20, 60];

/** What the buttons and the key `i` do. */
export function useHandling(): {
  take: (session: string, minutes?: number, instead?: boolean) => Promise<{ by: string; until: number } | null>;
  release: (session: string) => Promise<void>;
  name: string | null;
} {
  const texts = useTexts();
  const client = useClient();
  const { shop, store } = useShop();
  const { notify } = useNotices();
  const { name, ask } = useName();
  return {
    name,
    take: async (session, minutes = MINUTES, instead = false) => {
      const by = await ask();
      if (by === null) return null;
      try {
        store.handling(await client.handle(shop.shop_id, session, by, minutes, instead));
      } catch (error) {
        if (hasCode(error, 'handled') && error.body.handled_by !== undefined) {
          const other = { by: error.body.handled_by, until: time(error.body.handled_until ?? null) };
          store.handling({ session_id: session, handled_by: other.by, handled_until: error.body.handled_until ?? null });
          return other;
        }
        notify(tell(error, texts), { kind: 'bad' });
      }
      return null;
    },
    release: async (session) => {
      if (name === null) return;
      try {
        store.handling(await client.release(shop.shop_id, session, name));
      } catch (error) {
        notify(tell(error, texts), { kind: 'bad' });
      }
    },
  };
}

export function HandlingControl({ session, by, until, inRow = false }: { session: string; by: string | null; until: number; inRow?: boolean }) {
  const texts = useTexts();
  const { formats } = useShop();
  const now = useNow();
  const may = useMay('handle');
  const { take, release, name } = useHandling();
  const [busy, setBusy] = useState(false);
  const [other, setOther] = useState<{ by: string; until: number } | null>(null);
  const handled = by !== null && until > now;
  const mine = handled && by === name;

  const run = (task: Promise<unknown>) => {
    setBusy(true);
    void task.finally(() => setBusy(false));
  };
  const begin = (minutes?: number, instead?: boolean) =>
    run(
      take(session, minutes, instead).then((taken) => {
        setOther(taken);
      }),
    );
  const left = texts.age(Math.ceil((until - Math.max(now, serverNow() - 1000)) / 1000));
  const tab = inRow ? -1 : undefined;
  const takeOver = (
    <Dialog open={other !== null} onClose={() => setOther(null)} title={<bdi>{texts.board.takeOverTitle(other?.by ?? '')}</bdi>}>
      <p>
        <bdi>{other === null ? '' : texts.board.takeOverText(other.by, formats.clock(other.until))}</bdi>
      </p>
      <div className="dialog-foot">
        <button type="button" className="button" onClick={() => setOther(null)}>
          {texts.cancel}
        </button>
        <button
          type="button"
          className="button primary"
          onClick={() => {
            setOther(null);
            begin(undefined, true);
          }}
        >
          {texts.board.takeOver}
        </button>
      </div>
    </Dialog>
  );

  if (!handled) {
    if (!may) return <span className="sub">{inRow ? '' : texts.basket.nobody}</span>;
    return (
      <span className="handling">
        <button type="button" className={inRow ? 'button small' : 'button'} tabIndex={tab} disabled={busy} onClick={() => begin()}>
          <Icon name="hand" />
          {texts.board.onIt}
        </button>
        {inRow ? null : (
          <Menu
            label={texts.board.onItFor}
            trigger={
              <button type="button" className="button icon-only" aria-label={texts.board.onItFor} disabled={busy}>
                <Icon name="chevron" />
              </button>
            }
          >
            {CHOICES.map((minutes) => (
              <MenuItem key={minutes} onClick={() => begin(minutes)}>
                {texts.board.minutes(minutes)}
              </MenuItem>
            ))}
          </Menu>
        )}
        {takeOver}
      </span>
    );
  }
  const who = (
    <>
      <span className="face small" aria-hidden="true">
        {by.slice(0, 1)}
      </span>
      <span className="handler">
        <bdi>{mine ? texts.board.you : by}</bdi>
        <span className="sub">{left}</span>
      </span>
    </>
  );
  if (!may)
    return (
      <span className="handling" title={texts.board.handledBy(by, left)}>
        {who}
      </span>
    );
  return (
    <span className="handling">
      <Menu
        label={texts.basket.handling}
        trigger={
          <button type="button" className={mine ? 'handled mine' : 'handled'} tabIndex={tab} disabled={busy} title={texts.board.handledBy(mine ? texts.board.you : by, left)}>
            {who}
            <Icon name="chevron" />
          </button>
        }
      >
        {mine ? (
          <>
            <MenuItem icon="close" onClick={() => run(release(session))}>
              {texts.board.release}
            </MenuItem>
            {CHOICES.map((minutes) => (
              <MenuItem key={minutes} icon="clock" onClick={() => begin(minutes)}>
                {texts.board.minutes(minutes)}
              </MenuItem>
            ))}
          </>
        ) : (
          <MenuItem icon="hand" onClick={() => setOther({ by, until })}>
            {texts.board.takeOver}
          </MenuItem>
        )}
      </Menu>
      {takeOver}
    </span>
  );
}
