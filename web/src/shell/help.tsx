import { Dialog } from './dialog';
import { usePreferences, useTexts } from './use';

export function Help({ open, onClose }: { open: boolean; onClose: () => void }) {
  const texts = useTexts();
  const { keys } = usePreferences();
  const badge: [string, string, string][] = [
    ['live', texts.fresh.live, texts.fresh.explainLive],
    ['delayed', texts.fresh.delayed(8), texts.fresh.explainDelayed],
    ['stale', texts.fresh.stale('14:03:20'), texts.fresh.explainStale],
    ['offline', texts.fresh.offline('14:03:20'), texts.fresh.explainOffline],
  ];
  return (
    <Dialog open={open} onClose={onClose} title={texts.help.title} wide>
      <h3>{texts.help.keys}</h3>
      {keys ? null : <p className="note">{texts.help.keysOff}</p>}
      <dl className="keys">
        {texts.help.list.map(([keys, what]) => (
          <div key={keys + what}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <h3>{texts.help.badge}</h3>
      <dl className="badges">
        {badge.map(([kind, name, what]) => (
          <div key={kind}>
            <dt>
              <span className="badge" data-fresh={kind}>
                <span className="badge-dot" aria-hidden="true" />
                {name}
              </span>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
