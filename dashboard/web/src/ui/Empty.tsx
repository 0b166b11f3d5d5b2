/** Nothing has ever reported: says which one command changes that. */
export function Empty() {
  const host = location.hostname.replace(/^\[|\]$/g, '') || 'localhost';
  return (
    <section class="panel empty" aria-labelledby="empty-title" data-testid="empty">
      <h2 id="empty-title">No device has reported yet</h2>
      <p>To see a simulated fleet, stop this server and run</p>
      <pre tabIndex={0} aria-label="Command: demo">
        <code>tidewatch demo</code>
      </pre>
      <p>To send one reading of your own (MQTT on its usual port; the server prints its own at the start), run</p>
      <pre tabIndex={0} aria-label="Command: send one reading">
        <code>{`mosquitto_pub -h ${host} -p 1883 -q 1 -t devices/my-sensor/telemetry -m '{"values":{"temperature":21.5}}'`}</code>
      </pre>
      <p class="muted">The page shows it by itself as soon as it arrives.</p>
    </section>
  );
}
