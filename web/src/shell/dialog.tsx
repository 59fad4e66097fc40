// Dialogs and menus: those of Base UI, which know focus and keys, in this page's clothes.

import { Dialog as Base } from '@base-ui/react/dialog';
import { Menu as BaseMenu } from '@base-ui/react/menu';
import type { ReactElement, ReactNode } from 'react';
import { Icon, type IconName } from '../look/icon';
import { useTexts } from './use';

export function Dialog({
  open,
  onClose,
  title,
  children,
  wide = false,
}: {
  open: boolean;
  onClose: () => void;
  title: ReactNode;
  children: ReactNode;
  wide?: boolean;
}) {
  const texts = useTexts();
  return (
    <Base.Root open={open} onOpenChange={(next) => !next && onClose()}>
      <Base.Portal>
        <Base.Backdrop className="backdrop" />
        <Base.Popup className={wide ? 'dialog wide' : 'dialog'}>
          <div className="dialog-head">
            <Base.Title className="dialog-title">{title}</Base.Title>
            <Base.Close className="button quiet icon-only" aria-label={texts.close}>
              <Icon name="close" />
            </Base.Close>
          </div>
          {children}
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}

/** Menus stand in the content, so that they are part of a landmark as everything else. */
const place = {
  get current() {
    return document.getElementById('content');
  },
};

export function Menu({ trigger, label, children, end = true }: { trigger: ReactElement; label: string; children: ReactNode; end?: boolean }) {
  return (
    <BaseMenu.Root>
      <BaseMenu.Trigger render={trigger} />
      <BaseMenu.Portal container={place}>
        <BaseMenu.Positioner className="menu-place" sideOffset={6} align={end ? 'end' : 'start'}>
          <BaseMenu.Popup className="menu" aria-label={label}>
            {children}
          </BaseMenu.Popup>
        </BaseMenu.Positioner>
      </BaseMenu.Portal>
    </BaseMenu.Root>
  );
}

export function MenuItem({ onClick, icon, children, danger = false }: { onClick: () => void; icon?: IconName; children: ReactNode; danger?: boolean }) {
  return (
    <BaseMenu.Item className={danger ? 'menu-item danger' : 'menu-item'} onClick={onClick}>
      {icon === undefined ? null : <Icon name={icon} />}
      {children}
    </BaseMenu.Item>
  );
}

export function MenuChoice<T extends string>({
  label,
  value,
  choices,
  onChoose,
}: {
  label: string;
  value: T;
  choices: [T, string][];
  onChoose: (value: T) => void;
}) {
  return (
    <BaseMenu.RadioGroup value={value} onValueChange={onChoose} aria-label={label}>
      <div className="menu-label" aria-hidden="true">
        {label}
      </div>
      {choices.map(([key, text]) => (
        <BaseMenu.RadioItem key={key} value={key} className="menu-item" closeOnClick={false}>
          <span className="menu-mark">
            <BaseMenu.RadioItemIndicator>
              <Icon name="check" />
            </BaseMenu.RadioItemIndicator>
          </span>
          {text}
        </BaseMenu.RadioItem>
      ))}
    </BaseMenu.RadioGroup>
  );
}

export function MenuSwitch({ checked, onChange, children }: { checked: boolean; onChange: (checked: boolean) => void; children: ReactNode }) {
  return (
    <BaseMenu.CheckboxItem className="menu-item" checked={checked} onCheckedChange={onChange} closeOnClick={false}>
      <span className="menu-mark">
        <BaseMenu.CheckboxItemIndicator>
          <Icon name="check" />
        </BaseMenu.CheckboxItemIndicator>
      </span>
      {children}
    </BaseMenu.CheckboxItem>
  );
}

export function MenuLine() {
  return <BaseMenu.Separator className="menu-line" />;
}
