import net from 'node:net';

/**
 * A TCP proxy on a free loopback port in front of the server under test. It can freeze (sockets stay
 * open, nothing passes) and cut (sockets break, new ones are refused), as networks do.
 */
export async function startProxy(target) {
  const { hostname, port } = new URL(target);
  const pairs = new Set();
  let mode = 'pass';
  const proxy = net.createServer((client) => {
    if (mode === 'cut') {
      client.resetAndDestroy();
      return;
    }
    const server = net.connect({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port) });
    const pair = { client, server };
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      client.destroy();
      server.destroy();
    };
    for (const socket of [client, server]) socket.on('error', end).on('close', end);
    client.pipe(server);
    server.pipe(client);
    if (mode === 'frozen') freeze(pair);
  });
  const freeze = ({ client, server }) => {
    client.unpipe(server);
    server.unpipe(client);
    client.pause();
    server.pause();
  };
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    freeze() {
      mode = 'frozen';
      pairs.forEach(freeze);
    },
    cut() {
      mode = 'cut';
      for (const { client } of pairs) client.resetAndDestroy();
    },
    pass() {
      mode = 'pass';
      for (const { client, server } of pairs) {
        client.pipe(server);
        server.pipe(client);
      }
    },
    close() {
      for (const { client } of pairs) client.destroy();
      return new Promise((resolve) => proxy.close(resolve));
    },
  };
}
