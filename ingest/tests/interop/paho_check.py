"""The front with Paho for Python: paho_check.py PORT VERSION BATCH_FILE

Publishes 300 messages with many under way, hears the ack of a batch and the refusal of a broken one,
is refused what it may not hear, is taken over, and leaves a will. Exits 0 if all went as it should.
"""

import queue
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT, VERSION, BATCH = int(sys.argv[1]), sys.argv[2], sys.argv[3]
PROTOCOL = mqtt.MQTTv5 if VERSION == "5" else mqtt.MQTTv311
PATIENCE = 20


class Client:
    """A Paho client whose callbacks go into queues."""

    def __init__(self, client_id, user=None, will=None):
        kwargs = {} if PROTOCOL == mqtt.MQTTv5 else {"clean_session": True}
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=PROTOCOL, **kwargs)
        self.mqtt.max_inflight_messages_set(200)
        if user:
            self.mqtt.username_pw_set(user)
        if will:
            self.mqtt.will_set(*will)
        self.connected, self.gone = queue.Queue(), queue.Queue()
        self.messages, self.subacks, self.pubacks = queue.Queue(), queue.Queue(), queue.Queue()
        self.mqtt.on_connect = lambda c, u, f, code, p: self.connected.put((code, p))
        self.mqtt.on_disconnect = lambda c, u, f, code, p: self.gone.put(code)
        self.mqtt.on_message = lambda c, u, m: self.messages.put(m)
        self.mqtt.on_subscribe = lambda c, u, mid, codes, p: self.subacks.put(codes)
        self.mqtt.on_publish = lambda c, u, mid, code, p: self.pubacks.put((mid, code))

    def connect(self):
        self.mqtt.connect("127.0.0.1", PORT, keepalive=30)
        self.mqtt.loop_start()
        code, self.properties = self.connected.get(timeout=PATIENCE)
        assert code == 0, code
        return self

    def subscribe(self, topic):
        self.mqtt.subscribe(topic, qos=1)
        return self.subacks.get(timeout=PATIENCE)[0]

    def publish(self, topic, payload, **kwargs):
        """Publishes with QoS 1 and returns the reason code of the PUBACK."""
        mid = self.mqtt.publish(topic, payload, qos=1, **kwargs).mid
        got, code = self.pubacks.get(timeout=PATIENCE)
        assert got == mid, (got, mid)
        return code

    def stop(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


# Many messages under way; the PUBACKs come in order.
many = Client("paho-many").connect()
if PROTOCOL == mqtt.MQTTv5:
    assert many.properties.ReceiveMaximum == 64, many.properties
    assert many.properties.MaximumQoS == 1, many.properties
mids = [
    many.mqtt.publish(f"devices/p-{i % 5}/telemetry", '{"t": %d}' % i, qos=1).mid for i in range(300)
]
assert [many.pubacks.get(timeout=PATIENCE)[0] for _ in mids] == mids
many.stop()

# An agent hears the ack of its batch, and why a broken one was refused.
agent = Client("gw-1-0000000000000007", user="gw-1").connect()
assert agent.subscribe("tidewatch/v1/gw-1/ack").value == 1
batch = open(BATCH, "rb").read()
assert agent.publish("tidewatch/v1/gw-1/batch", batch) == 0
ack = agent.messages.get(timeout=PATIENCE)
assert ack.topic == "tidewatch/v1/gw-1/ack" and ack.payload[0] == 1, ack.payload
code = agent.publish("tidewatch/v1/gw-1/batch", batch[:-1] + bytes([batch[-1] ^ 1]))
assert code == (0x99 if PROTOCOL == mqtt.MQTTv5 else 0), code
refused = agent.messages.get(timeout=PATIENCE)
assert b"checksum" in refused.payload, refused.payload
assert agent.subscribe("#").is_failure
assert agent.subscribe("tidewatch/v1/gw-2/ack").is_failure
if PROTOCOL == mqtt.MQTTv5:
    # Properties that devices send are read over.
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/json"
    properties.UserProperty = ("a", "b")
    properties.MessageExpiryInterval = 60
    code = agent.publish("tidewatch/v1/gw-1/status", '{"online": true}', properties=properties)
    assert code == 0, code
agent.stop()

# The same client id again: the first one has to go, and its will comes first.
reader = Client("reader").connect()
assert reader.subscribe("tidewatch/v1/+/status").value == 1
while not reader.messages.empty():
    reader.messages.get()
will = ("tidewatch/v1/gw-2/status", '{"online": false}', 1, True)
first = Client("gw-2-1", user="gw-2", will=will)
first.mqtt.reconnect_delay_set(min_delay=PATIENCE, max_delay=PATIENCE)
first.connect()
second = Client("gw-2-1", user="gw-2").connect()
code = first.gone.get(timeout=PATIENCE)
if PROTOCOL == mqtt.MQTTv5:
    assert code.value == 0x8E, code
message = reader.messages.get(timeout=PATIENCE)
assert message.topic == "tidewatch/v1/gw-2/status", message.topic
assert message.payload == b'{"online": false}', message.payload
threading.Thread(target=first.stop, daemon=True).start()
second.stop()
reader.stop()
print("paho", VERSION, "ok")
