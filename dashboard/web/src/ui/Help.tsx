import { useEffect, useRef } from 'preact/hooks';
import { helpOpen, setShortcuts, shortcutsOn } from './shortcuts';

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = helpOpen.value;
  useEffect(() => {
    if (open && !dialog.current?.open) dialog.current?.showModal();
  }, [open]);
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title" onClose={() => (helpOpen.value = false)}>
      <h2 id="help-title">How to read this page</h2>
      <p>
        All times along the strip and the chart are <strong>event time</strong>: when it happened at the device, not when it
        arrived. A bar of the strip is one window; its full height is every device that was expected.
      </p>
      <dl class="help-list">
        <div>
          <dt>solid</dt>
          <dd>devices whose data for the window was complete when it settled</dd>
        </div>
        <div>
          <dt>↻ late</dt>
          <dd>filled in after the window had settled: its figures were revised</dd>
        </div>
        <div>
          <dt>declared lost</dt>
          <dd>nothing more is awaited, but the device itself reported a gap</dd>
        </div>
        <div>
          <dt>hatched</dt>
          <dd>still missing; click the bar to see which devices, and their backlog</dd>
        </div>
        <div>
          <dt>dashed outline</dt>
          <dd>provisional: the window has not settled; in the chart, the dashed part of the line</dd>
        </div>
        <div>
          <dt>pale band</dt>
          <dd>below 95 % completeness: minimum and maximum may still move</dd>
        </div>
      </dl>
      <h3>Keyboard</h3>
      <dl class="help-list keys">
        <div>
          <dt><kbd>p</kbd></dt>
          <dd>pause and resume</dd>
        </div>
        <div>
          <dt><kbd>?</kbd></dt>
          <dd>this help</dd>
        </div>
        <div>
          <dt><kbd>←</kbd> <kbd>→</kbd> <kbd>Enter</kbd></dt>
          <dd>on the strip: walk the windows, list the outstanding devices</dd>
        </div>
      </dl>
      <label class="check">
        <input type="checkbox" checked={shortcutsOn.value} onChange={(event) => setShortcuts(event.currentTarget.checked)} />
        Single-key shortcuts
      </label>
      <form method="dialog">
        <button class="button" type="submit">
          Close
        </button>
      </form>
    </dialog>
  );
}
