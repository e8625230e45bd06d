// A NATS client that knows nothing about go-micro. It publishes an order, and prints
// the message that a go-micro service publishes in response.
//
//   npm install nats
//   NATS_URL=nats://localhost:4222 TRACEPARENT=00-...-...-01 node peer.js
const { connect, headers, AckPolicy } = require("nats");

async function main() {
  const nc = await connect({ servers: process.env.NATS_URL });
  const js = nc.jetstream();
  const jsm = await nc.jetstreamManager();

  // The broker uses any stream that captures its topic, whatever its name.
  await jsm.streams.add({ name: "MADE_BY_NODE", subjects: ["payments.>"] });
  await jsm.consumers.add("MADE_BY_NODE", { durable_name: "node", ack_policy: AckPolicy.Explicit });

  // Without the content type, go-micro would decode the body as protobuf.
  const h = headers();
  h.set("content-type", "application/json");
  h.set("traceparent", process.env.TRACEPARENT);
  h.set("Tenant", "a");
  await js.publish("orders.created", JSON.stringify({ id: "4711" }), { headers: h, msgID: "order-4711" });

  const consumer = await js.consumers.get("MADE_BY_NODE", "node");
  const m = await consumer.next({ expires: 30_000 });
  if (m === null) {
    throw new Error("nothing came");
  }
  const got = {};
  for (const [key, values] of m.headers) {
    got[key] = values;
  }
  console.log(JSON.stringify({ subject: m.subject, body: m.json(), headers: got }));
  await m.ackAck();
  await nc.drain();
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
