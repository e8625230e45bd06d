package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/client"
	grpcclient "go-micro.dev/v5/client/grpc"
	"go-micro.dev/v5/metadata"
	"go-micro.dev/v5/registry"
	microserver "go-micro.dev/v5/server"
	"go-micro.dev/v5/server/grpc"
	"go-micro.dev/v5/transport"
	"google.golang.org/protobuf/types/known/wrapperspb"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
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

// The metadata of an RPC has what its transport brings: the pseudo-headers of HTTP/2, the
// headers of HTTP, and gRPC's binary values, which may be anything.
func TestRPCHandlersPublishWithTheirContext(t *testing.T) {
	t.Parallel()
	type service = func(registry.Registry, broker.Broker) (microserver.Server, client.Client)
	for name, tt := range map[string]struct {
		service service
		binary  string // of the metadata; HTTP carries less
		brings  string // metadata that the transport adds
		lost    []string
	}{
		"gRPC": {func(reg registry.Registry, b broker.Broker) (microserver.Server, client.Client) {
			return grpc.NewServer(microserver.Name("shop"), microserver.Address("127.0.0.1:0"), microserver.Broker(b), microserver.Registry(reg)), grpcclient.NewClient(client.Registry(reg))
		}, "a\nb\x00c", ":authority", []string{":authority", "span-bin"}},
		"HTTP": {func(reg registry.Registry, b broker.Broker) (microserver.Server, client.Client) {
			return microserver.NewServer(microserver.Name("shop"), microserver.Address("127.0.0.1:0"), microserver.Broker(b), microserver.Registry(reg), microserver.Transport(transport.NewHTTPTransport())),
				client.NewClient(client.Registry(reg), client.Transport(transport.NewHTTPTransport()), client.ContentType("application/protobuf"))
		}, "YWI=", "User-Agent", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, startServer(t))
			h, got := headerCollector()
			subscribe(t, b, "orders.created", h)
			reg := registry.NewMemoryRegistry()
			srv, caller := tt.service(reg, b)
			shop := &Shop{client.NewClient(client.Broker(b), client.Registry(reg)), make(chan metadata.Metadata, 1)}
			noErr(t, srv.Handle(srv.NewHandler(shop)))
			noErr(t, srv.Start())
			defer func() { noErr(t, srv.Stop()) }()
			ctx := metadata.NewContext(testContext(t), metadata.Metadata{"tenant": "acme", "span-bin": tt.binary})
			in, out := wrapperspb.String("7"), &wrapperspb.StringValue{}
			noErr(t, caller.Call(ctx, caller.NewRequest("shop", "Shop.Buy", in), out))
			md := receive(t, shop.got)
			if md[tt.brings] == "" {
				t.Fatalf("the RPC came with %v", md)
			}
			r := receive(t, got)
			tenant, _ := metadata.Metadata(r.header).Get("tenant")
			if r.header["Micro-Topic"] != "orders.created" || tenant != "acme" {
				t.Errorf("%q with %v", r.body, r.header)
			}
			for _, key := range tt.lost {
				if v, ok := r.header[key]; ok || md[key] == "" {
					t.Errorf("%q came through: %q; the RPC came with %v", key, v, md)
				}
			}
		})
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

// forged are answers that a subscriber of the topic may send in the place of the stream.
// Refused says that a publish may believe it, and fail.
var forged = map[string]struct {
	msg     nats.Msg
	refused bool
}{
	"the stream is full":      {nats.Msg{Data: []byte(`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`)}, true},
	"the name is in use":      {nats.Msg{Data: []byte(`{"error":{"code":400,"err_code":10058,"description":"stream name already in use"}}`)}, true},
	"an unknown code":         {nats.Msg{Data: []byte(`{"error":{"code":599,"err_code":64999,"description":"` + strings.Repeat("no ", 1000) + `"}}`)}, true},
	"temporarily unavailable": {nats.Msg{Data: []byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`)}, true},
	"no responders":           {nats.Msg{Header: nats.Header{"Status": {"503"}}}, true},
	"rubbish":                 {nats.Msg{Data: []byte("\x00\xff{]")}, false},
	"half an answer":          {nats.Msg{Data: []byte(`{"stream":"ORDERS","seq":`)}, false},
}

// Where a subscriber of the topic forges refusals beside a stream that stores everything,
// a publish may fail although its message is stored. None succeeds whose message is not,
// none is stored twice, and what is no answer at all changes nothing.
func TestForgedRefusalsMakeNothingLookStored(t *testing.T) {
	t.Parallel()
	const n = 150
	for name, f := range forged {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			nc, js := natsConn(t, s)
			b := newBroker(t, s, jsbroker.WithStreamConfig(jetstream.StreamConfig{}), jsbroker.WithAsyncWindow(n))
			publish(t, b, "orders", "the stream is there")
			_, err := nc.Subscribe("orders", func(m *nats.Msg) {
				_ = nc.PublishMsg(&nats.Msg{Subject: m.Reply, Data: f.msg.Data, Header: f.msg.Header})
			})
			noErr(t, err)
			noErr(t, nc.Flush())
			errs := make([]error, n)
			var all sync.WaitGroup
			all.Add(n)
			for i := range n {
				noErr(t, b.Publish("orders", message(fmt.Sprint(i)), jsbroker.Async(func(err error) { errs[i] = err; all.Done() })))
			}
			all.Wait()
			times := map[string]int{}
			st, err := js.Stream(testContext(t), "ORDERS")
			noErr(t, err)
			last := streamInfo(t, js, "ORDERS").State.LastSeq
			for seq := uint64(2); seq <= last; seq++ {
				m, err := st.GetMsg(testContext(t), seq)
				noErr(t, err)
				times[string(m.Data)]++
			}
			failed := 0
			for i, err := range errs {
				body := fmt.Sprint(i)
				switch {
				case times[body] > 1:
					t.Errorf("%s is stored %d times", body, times[body])
				case err == nil && times[body] == 0:
					t.Errorf("%s was reported as stored, and is not", body)
				case err != nil && !f.refused:
					t.Errorf("%s failed: %v", body, err)
				}
				if err != nil {
					failed++
					if len(err.Error()) > 2000 {
						t.Errorf("an error of %d bytes", len(err.Error()))
					}
				}
			}
			t.Logf("%d stored, of these %d reported as failed", len(times), failed)
		})
	}
}

// Who may not publish to the client's inbox forges no answer.
func TestPermissionsKeepForgedAnswersOut(t *testing.T) {
	t.Parallel()
	s := startServer(t, natstest.Limited(natstest.NoPublish("_INBOX.shop.>")))
	violations := make(chan error, 1000)
	nc, _ := natstest.Connect(t, natstest.URL(s, "limited:pw"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	b := newBroker(t, s, broker.Addrs(natstest.URL(s, "admin:admin")), jsbroker.WithNATSOptions(nats.CustomInboxPrefix("_INBOX.shop")))
	publish(t, b, "orders", "the stream is there")
	_, err := nc.Subscribe("orders", func(m *nats.Msg) {
		_ = m.Respond(forged["the stream is full"].msg.Data)
	})
	noErr(t, err)
	noErr(t, nc.Flush())
	for range 100 {
		publish(t, b, "orders", "x")
	}
	for range 100 { // it has tried
		if err := receive(t, violations); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Error(err)
		}
	}
}
