package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	grpcclient "go-micro.dev/v5/client/grpc"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	microserver "go-micro.dev/v5/server"
	"go-micro.dev/v5/server/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	jsbroker "go-micro-jetstream/broker"
)

// Shop is an RPC handler that publishes with its own context. It is exported
// because go-micro asks for that.
type Shop struct {
	events client.Client
	got    chan metadata.Metadata
}

// Buy publishes what it was asked for.
func (s *Shop) Buy(ctx context.Context, in, out *wrapperspb.StringValue) error {
	out.Value = in.Value
	md, _ := metadata.FromContext(ctx)
	s.got <- md
	m := s.events.NewMessage("orders.created", &Order{ID: in.Value}, client.WithMessageContentType("application/json"))
	return s.events.Publish(ctx, m)
}

// The metadata of an RPC has the pseudo-headers of HTTP/2, and gRPC's binary values
// may be anything.
func TestRPCHandlersPublishWithTheirContext(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	h, got := headerCollector()
	subscribe(t, b, "orders.created", h)
	reg := registry.NewMemoryRegistry()
	srv := grpc.NewServer(microserver.Name("shop"), microserver.Address("127.0.0.1:0"), microserver.Broker(b), microserver.Registry(reg))
	shop := &Shop{client.NewClient(client.Broker(b), client.Registry(reg)), make(chan metadata.Metadata, 1)}
	noErr(t, srv.Handle(srv.NewHandler(shop)))
	noErr(t, srv.Start())
	defer func() { noErr(t, srv.Stop()) }()
	caller := grpcclient.NewClient(client.Registry(reg))
	ctx := metadata.NewContext(testContext(t), metadata.Metadata{"tenant": "acme", "span-bin": "a\nb\x00c"})
	in, out := wrapperspb.String("7"), &wrapperspb.StringValue{}
	noErr(t, caller.Call(ctx, caller.NewRequest("shop", "Shop.Buy", in), out))
	md := receive(t, shop.got)
	if md[":authority"] == "" || md["span-bin"] != "a\nb\x00c" {
		t.Fatalf("the RPC came with %v", md)
	}
	r := receive(t, got)
	if r.header["Micro-Topic"] != "orders.created" || r.header["tenant"] != "acme" {
		t.Errorf("%q with %v", r.body, r.header)
	}
	for _, key := range []string{":authority", "span-bin"} {
		if v, ok := r.header[key]; ok {
			t.Errorf("%q came through: %q", key, v)
		}
	}
}

// A subscriber of the topic sees where the stream's answer goes, and may send
// something there.
func TestForeignAnswersAreNotTheStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "the stream is there")
	foreign := []*nats.Msg{
		{Data: []byte("hello")},
		{Data: nil},
		{Data: []byte("{}")},
		{Data: []byte(`{"stream":""}`)},
		{Data: []byte(`{"error":{}}`)},
		{Data: []byte(`{"stream":"ORDERS","seq":`)},
		{Data: []byte("+ACK")},
		{Data: nil, Header: nats.Header{"Status": {"404"}}},
	}
	n := 0
	_, err := nc.Subscribe("orders", func(m *nats.Msg) {
		for range 3 {
			answer := foreign[n%len(foreign)]
			n++
			_ = nc.PublishMsg(&nats.Msg{Subject: m.Reply, Data: answer.Data, Header: answer.Header})
		}
		_ = nc.Flush()
	})
	noErr(t, err)
	noErr(t, nc.Flush())
	for i := range 100 {
		if err := b.Publish("orders", message(fmt.Sprint(i))); err != nil {
			t.Fatalf("publish %d: %v", i, err)
		}
	}
	done := make(chan error, 100)
	for i := range 100 {
		noErr(t, b.Publish("orders", message(fmt.Sprint(i)), jsbroker.Async(func(err error) { done <- err })))
	}
	for range 100 {
		noErr(t, receive(t, done))
	}
}

// Where only the subscriber answers, the stream has not: the outcome is unknown.
func TestForeignAnswersAlone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "the stream is there")
	_, err := nc.Subscribe("orders", func(m *nats.Msg) { _ = m.Respond([]byte("hello")) })
	noErr(t, err)
	noErr(t, nc.Flush())
	noErr(t, js.DeleteStream(testContext(t), "ORDERS"))
	publish(t, b, "orders", "the stream is made again")
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := b.Publish("orders", message("x"), broker.PublishContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
