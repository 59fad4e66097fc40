// The badge that says whether what is on the screen is still true.

import { Popover } from '@base-ui/react/popover';
import { useEffect, useRef } from 'react';
import type { Freshness } from '../live/freshness';
import type { Formats } from '../look/money';
import type { Texts } from '../texts/en';
import { useNotices } from './notices';
import { useFreshness, useShop } from './shop';
import { useNow, useTexts } from './use';

export function words(fresh: Freshness, texts: Texts, formats: Formats): string {
  switch (fresh.kind) {
    case 'connecting':
      return texts.fresh.connecting;
    case 'live':
      return texts.fresh.live;
    case 'delayed':
      return texts.fresh.delayed(fresh.seconds);
    case 'stale':
      return texts.fresh.stale(formats.clockWithSeconds(fresh.since));
    case 'offline':
      return texts.fresh.offline(formats.clockWithSeconds(fresh.since));
  }
}

export function Badge() {
  const texts = useTexts();
  const { store, formats, source } = useShop();
  const { announce } = useNotices();
  const fresh = useFreshness();
  // The seconds in the explanation go on while nothing is heard.
  useNow();
  const text = words(fresh, texts, formats);
  const said = useRef(fresh.kind);
  useEffect(() => {
    // The kind, not each second of it.
    if (said.current === fresh.kind) return;
    said.current = fresh.kind;
    announce(text);
  }, [fresh.kind, text, announce]);
  const explain = {
    connecting: texts.fresh.explainConnecting,
    live: texts.fresh.explainLive,
    delayed: texts.fresh.explainDelayed,
    stale: texts.fresh.explainStale,
    offline: texts.fresh.explainOffline,
  }[fresh.kind];
  const { sequence, heardAt } = store.signalled;
  const retry = fresh.kind === 'offline' && fresh.retryAt !== null ? Math.ceil((fresh.retryAt - Date.now()) / 1000) : 0;
  return (
    <Popover.Root>
      <Popover.Trigger className="badge" data-fresh={fresh.kind}>
        <span className="badge-dot" aria-hidden="true" />
        <span className="badge-text">{text}</span>
      </Popover.Trigger>
      <Popover.Portal>
        <Popover.Positioner className="menu-place" sideOffset={8} align="end">
          <Popover.Popup className="menu popover">
            <Popover.Title className="popover-title">{text}</Popover.Title>
            <Popover.Description>{explain}</Popover.Description>
            <ul className="plain facts">
              {retry > 0 ? <li>{texts.fresh.retry(retry)}</li> : null}
              {sequence === null || sequence === 0 ? null : <li>{texts.fresh.trueUpTo(formats.number(sequence))}</li>}
              {heardAt === null ? null : <li>{texts.fresh.lastHeard(texts.age((Date.now() - heardAt) / 1000))}</li>}
              {source === null ? null : <li>{texts.fresh.over[source]}</li>}
            </ul>
          </Popover.Popup>
        </Popover.Positioner>
      </Popover.Portal>
    </Popover.Root>
  );
}
