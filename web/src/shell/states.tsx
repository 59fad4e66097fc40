// What a screen shows while it has nothing to show: it says what to do.

import { Component, type ReactNode } from 'react';
import { Icon, type IconName } from '../look/icon';
import { tell, useTexts } from './use';
import { Unreachable } from '../api/problem';

export function Loading({ text }: { text?: string }) {
  const texts = useTexts();
  return (
    <div className="state" role="status">
      <span className="spinner" aria-hidden="true" />
      <p>{text ?? texts.loading}</p>
    </div>
  );
}

export function Empty({ icon = 'basket', title, text, children }: { icon?: IconName; title: string; text: string; children?: ReactNode }) {
  return (
    <div className="state">
      <Icon name={icon} className="state-icon" />
      <h2>{title}</h2>
      <p>{text}</p>
      {children}
    </div>
  );
}

export function Failed({ title, error, hint, onRetry }: { title: string; error: unknown; hint?: string; onRetry?: () => void }) {
  const texts = useTexts();
  return (
    <div className="state" role="alert">
      <Icon name="alert" className="state-icon bad" />
      <h2>{title}</h2>
      <p>{tell(error, texts)}</p>
      {hint !== undefined || error instanceof Unreachable ? <p>{hint ?? texts.problems.unreachableHint}</p> : null}
      {onRetry === undefined ? null : (
        <button type="button" className="button" onClick={onRetry}>
          {texts.tryAgain}
        </button>
      )}
    </div>
  );
}

/** Keeps a part that fails from taking everything with it. */
export class Boundary extends Component<{ texts: { title: string; text: string; reload: string }; children: ReactNode }, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  override render() {
    if (!this.state.failed) return this.props.children;
    return (
      <div className="state" role="alert">
        <Icon name="alert" className="state-icon bad" />
        <h2>{this.props.texts.title}</h2>
        <p>{this.props.texts.text}</p>
        <button type="button" className="button" onClick={() => location.reload()}>
          {this.props.texts.reload}
        </button>
      </div>
    );
  }
}
