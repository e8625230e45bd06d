package broker_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// received is a delivery's header as a copy, and as the map itself.
type received struct {
	header map[string]string
	own    map[string]string
	body   string
}

func headerCollector() (broker.Handler, <-chan received) {
	ch := make(chan received, 1000)
	return func(e broker.Event) error {
		m := e.Message()
		ch <- received{maps.Clone(m.Header), m.Header, string(m.Body)}
		return nil
	}, ch
}

func TestHeadersArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	header := map[string]string{
		"Content-Type": "application/json", "lower": "v", "UPPER": "V", "MiXeD-Case": "x",
		"Empty": "", "Unicode": "grüße, 日本", "Colon": "a: b", "Tab": "a\tb", "Tilde~!#$%&'*+-.^_`|": "odd but legal",
		"Micro-Id": "1", "Status": "404", "Description": "No Messages",
	}
	if err := b.Publish("orders", &broker.Message{Header: header, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	h, got := headerCollector()
	subscribe(t, b, "orders", h)
	if r := receive(t, got); !maps.Equal(r.header, header) {
		t.Fatalf("got  %v\nwant %v", r.header, header)
	}
}

func TestHeadersThatNATSCannotCarryAreErrorsThatNameTheKey(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "x")
	count := natstest.CountRequests(t, nc, "orders")
	cases := map[string]string{
		"": "empty", "A\r\nB": "v", "A\nB": "v", "A\rB": "v", "A:": "v", "A B": "v", " A": "v", "A\t": "v", "Ä": "v", "A\x00": "v", "A\x7f": "v",
		"Break": "a\r\nForged: b", "Line": "a\nb", "Return": "a\rb", "Nul": "a\x00b",
	}
	// The client refuses these, too, but only in the middle of sending, and
	// without a word about which key it was.
	for _, c := range `"(),/;<=>?@[\]{}` {
		cases["K"+string(c)] = "v"
	}
	for key, value := range cases {
		err := b.Publish("orders", &broker.Message{Header: map[string]string{"Good": "v", key: value}, Body: []byte("x")})
		wantError(t, err, jsbroker.ErrInvalidHeader, fmt.Sprintf("%q", key))
		if errors.Is(err, jsbroker.ErrPublishUnknown) {
			t.Errorf("nothing was sent, and yet: %v", err)
		}
	}
	for _, id := range []string{"a\r\nb", "a\nb", "\x00"} {
		wantError(t, b.Publish("orders", message("x"), jsbroker.MessageID(id)), jsbroker.ErrInvalidHeader, "Nats-Msg-Id")
	}
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d messages were sent", n)
	}
	publish(t, b, "orders", "the connection is fine")
}

func TestStatusHeaderWithoutBodyIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	for _, status := range []string{"404", "409", "503", "200", "100", ""} {
		for _, body := range [][]byte{nil, {}} {
			err := b.Publish("orders", &broker.Message{Header: map[string]string{"Status": status}, Body: body})
			wantError(t, err, jsbroker.ErrInvalidHeader, `"Status"`)
		}
		if err := b.Publish("orders", &broker.Message{Header: map[string]string{"Status": status}, Body: []byte(status + ".")}); err != nil {
			t.Fatal(err)
		}
	}
	h, got := headerCollector()
	subscribe(t, b, "orders", h)
	for _, status := range []string{"404", "409", "503", "200", "100", ""} {
		if r := receive(t, got); r.body != status+"." || r.header["Status"] != status {
			t.Fatalf("got %+v", r)
		}
	}
}

// A delivery has no Nats-* header, so whoever publishes one has set it: it is an
// error, and no header of JetStream passes for one of the user's.
func TestControlHeadersAreRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ROLL", Subjects: []string{"roll.>"}, AllowRollup: true, AllowMsgTTL: true})
	plain := newBroker(t, s)
	watched, onEnd := hookChan[jsbroker.Published]()
	hooked := newBroker(t, s, jsbroker.WithHooks(jsbroker.Hooks{Published: onEnd}))
	publish(t, plain, "roll.a", "x")
	count := natstest.CountRequests(t, nc, "roll.>")
	for key, hint := range map[string]string{
		"Nats-Rollup": "NATS client", "nats-rollup": "NATS client", "NATS-ROLLUP": "NATS client",
		"Nats-Msg-Id": "MessageID", "nats-msg-id": "MessageID", "NATS-MSG-ID": "MessageID",
		"Nats-Expected-Stream": "NATS client", "Nats-Expected-Last-Sequence": "NATS client", "Nats-Expected-Last-Subject-Sequence": "NATS client", "Nats-Expected-Last-Msg-Id": "NATS client",
		"Nats-TTL": "TTL", "Nats-Batch-Id": "NATS client", "Nats-Schedule": "DeliverAt", "Nats-Schedule-Target": "DeliverAfter",
		"Nats-Incr": "NATS client", "Nats-Trace-Dest": "NATS client", "Nats-Whatever-Comes": "NATS client",
	} {
		m := &broker.Message{Body: []byte("x"), Header: map[string]string{key: "1", "Natsukashii": "stays", "X-Nats-Y": "stays"}}
		wantError(t, plain.Publish("roll.a", m), jsbroker.ErrInvalidHeader, fmt.Sprintf("%q", key), hint)
		wantError(t, hooked.Publish("roll.a", m), jsbroker.ErrInvalidHeader, fmt.Sprintf("%q", key), hint)
		if e := receive(t, watched); e.Reason != "invalid_header" {
			t.Errorf("hooks are told %+v", e)
		}
	}
	if n := count.Seen(t); n != 0 {
		t.Errorf("%d messages were sent", n)
	}
	if err := plain.Publish("roll.a", &broker.Message{Body: []byte("x"), Header: map[string]string{"Natsukashii": "stays", "X-Nats-Y": "stays"}}); err != nil {
		t.Fatal(err)
	}
	h := natstest.LastMessage(t, js, "ROLL", "roll.a").Header
	if len(h) != 3 || h.Get("Nats-Msg-Id") == "" || h.Get("Natsukashii") != "stays" || h.Get("X-Nats-Y") != "stays" {
		t.Fatalf("on the wire: %v", h)
	}
}

// What go-micro's client copies from an RPC is left out where NATS cannot carry it,
// and the rest is published. The log names what might be missed.
func TestWhatNobodyHasSetByHandIsLeftOut(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	h, got := headerCollector()
	subscribe(t, b, "orders", h)
	for _, header := range []map[string]string{
		{":authority": "shop", ":path": "/order", "Kept": "v"},
		{"trace-bin": "a\nb", "Kept": "v"},
		{"Micro-Topic": "orders", ":path": "/order", "trace-bin": "\x00", "Note": "line\nline", "Kept": "v"},
		{":status": "200", ":scheme": "https", "Grpc-Status-Details-Bin": "\x00\r", "X-B3-BIN": "\n", "Kept": "v"}, // HTTP/2 and other spellings
		{"Micro-Topic": "orders", "kafka_offset (int)": "1", "x-death[0].queue": "q", "Kept": "v"},                 // bridges of Kafka and AMQP
		{"Micro-Topic": "orders", "": "v", "Größe": "v", "Cookie Jar": "v", "traceparent": "a\r\nb", "Kept": "v"},
	} {
		if err := b.Publish("orders", &broker.Message{Header: header, Body: []byte("x")}); err != nil {
			t.Fatalf("%v: %v", header, err)
		}
		r := receive(t, got)
		delete(r.header, "Micro-Topic")
		if !maps.Equal(r.header, map[string]string{"Kept": "v"}) {
			t.Errorf("%v arrives as %v", header, r.header)
		}
	}
	if text := log.Text(); !strings.Contains(text, `published without the header "Note"`) || strings.Contains(text, "trace-bin") || strings.Contains(text, ":path") {
		t.Errorf("the log: %s", text)
	}
}

func TestControlHeadersNeverArrive(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "1")
	m := &nats.Msg{Subject: "orders", Data: []byte("2"), Header: nats.Header{
		"Nats-Msg-Id": {"theirs"}, "nats-lower": {"x"}, "NATS-UPPER": {"x"}, "Nats-Expected-Stream": {"ORDERS"}, "Kept": {"first", "second"},
	}}
	if _, err := js.PublishMsg(testContext(t), m); err != nil {
		t.Fatal(err)
	}
	// What go-micro's handlers do: publish with everything they received.
	forwarded := make(chan error, 10)
	h, got := headerCollector()
	subscribe(t, b, "orders", func(e broker.Event) error {
		forwarded <- b.Publish("orders.next", e.Message(), broker.PublishContext(jsbroker.EventContext(e)))
		return h(e)
	})
	if r := receive(t, got); len(r.header) != 0 {
		t.Errorf("a message without headers arrived with %v", r.header)
	}
	if r := receive(t, got); !maps.Equal(r.header, map[string]string{"Kept": "first"}) {
		t.Errorf("got %v", r.header)
	}
	for range 2 {
		if err := receive(t, forwarded); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "only the two forwarded messages are left", func() bool { return streamInfo(t, js, "ORDERS").State.Msgs == 2 })
	if id := natstest.LastMessage(t, js, "ORDERS", "orders.next").Header.Get("Nats-Msg-Id"); id == "theirs" {
		t.Error("the message id was copied: the message would be dropped as a duplicate")
	}
}

func TestOneTraceparentOnTheWireTheNewest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	const stale, fresh = "00-11111111111111111111111111111111-1111111111111111-01", "00-22222222222222222222222222222222-2222222222222222-01"
	for _, names := range [][2]string{
		{"traceparent", "Traceparent"}, {"tracestate", "Tracestate"}, {"baggage", "Baggage"},
		{"traceparent", "TRACEPARENT"}, {"traceparent", "TraceParent"}, {"b3", "B3"}, {"x-b3-traceid", "X-B3-TraceId"}, {"uber-trace-id", "Uber-Trace-Id"},
	} {
		for range 20 { // the order of a map is another each time
			if err := b.Publish("orders", &broker.Message{Header: map[string]string{names[0]: stale, names[1]: fresh, "Other": "o"}, Body: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			h := natstest.LastMessage(t, js, "ORDERS", "orders").Header
			if len(h) != 3 || len(h[names[0]]) != 1 || h[names[0]][0] != fresh || h["Other"][0] != "o" {
				t.Fatalf("%v: on the wire: %v", names, h)
			}
		}
	}
	for range 100 {
		header := map[string]string{"traceparent": stale, "Traceparent": fresh, "tracestate": "a=1", "Tracestate": "b=2"}
		if err := b.Publish("orders", &broker.Message{Header: header, Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		h := natstest.LastMessage(t, js, "ORDERS", "orders").Header
		if len(h) != 3 || h["traceparent"][0] != fresh || h["tracestate"][0] != "b=2" {
			t.Fatalf("on the wire: %v", h)
		}
	}
	for _, alone := range []string{"Traceparent", "TRACEPARENT", "traceparent", "tRaCePaReNt"} {
		if err := b.Publish("orders", &broker.Message{Header: map[string]string{alone: fresh}, Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if h := natstest.LastMessage(t, js, "ORDERS", "orders").Header; len(h) != 2 || len(h["traceparent"]) != 1 || h["traceparent"][0] != fresh {
			t.Fatalf("%s: on the wire: %v", alone, h)
		}
	}
}

// A message may have a trace header twice, with one value, or once without any.
func TestTraceHeadersOfOneValueAndOfNone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := newBroker(t, s)
	h, got := headerCollector()
	subscribe(t, b, "orders", h)
	const parent = "00-11111111111111111111111111111111-1111111111111111-01"
	want := map[string]string{"traceparent": parent, "tracestate": "k=v"}
	for _, sent := range []map[string]string{
		{"traceparent": parent, "Traceparent": parent, "tracestate": "k=v"},
		{"traceparent": parent, "Traceparent": "", "tracestate": "k=v"},
		{"traceparent": "", "Traceparent": parent, "tracestate": "k=v"},
		{"traceparent": parent, "tracestate": "k=v", "Tracestate": ""},
		{"traceparent": parent, "Traceparent": " ", "tracestate": "k=v"},
		{"traceparent": "\t", "TRACEPARENT": parent, "tracestate": "k=v", "Tracestate": " "},
	} {
		if err := b.Publish("orders", &broker.Message{Header: sent}); err != nil {
			t.Fatal(err)
		}
		if r := receive(t, got); !maps.Equal(r.header, want) {
			t.Errorf("%v is published as %v", sent, r.header)
		}
	}
}

// Other publishers may send a trace header in several lines, as with HTTP. W3C has those of
// tracestate and baggage put together.
func TestTraceHeadersInSeveralLines(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	h, got := headerCollector()
	subscribe(t, b, "orders", h)
	const parent, other = "00-11111111111111111111111111111111-1111111111111111-01", "00-22222222222222222222222222222222-2222222222222222-01"
	for _, tt := range []struct {
		sent nats.Header
		want map[string]string
	}{
		{nats.Header{"traceparent": {parent}, "tracestate": {"a=1", "b=2"}}, map[string]string{"traceparent": parent, "tracestate": "a=1,b=2"}},
		{nats.Header{"traceparent": {"", parent}, "tracestate": {"", "b=2", ""}}, map[string]string{"traceparent": parent, "tracestate": "b=2"}},
		{nats.Header{"traceparent": {parent, other}, "baggage": {"a=1", "b=2,c=3"}}, map[string]string{"traceparent": parent, "baggage": "a=1,b=2,c=3"}},
		{nats.Header{"Baggage": {"", ""}, "x": {"1", "2"}}, map[string]string{"Baggage": "", "x": "1"}},
	} {
		_, err := js.PublishMsg(testContext(t), &nats.Msg{Subject: "orders", Header: tt.sent})
		noErr(t, err)
		if r := receive(t, got); !maps.Equal(r.header, tt.want) {
			t.Errorf("%v arrives as %v", tt.sent, r.header)
		}
	}
}

func TestWithoutHooksHeadersPassUntouched(t *testing.T) {
	t.Parallel()
	b := newBroker(t, startServer(t))
	header := map[string]string{"traceparent": "00-11111111111111111111111111111111-1111111111111111-01", "tracestate": "a=1", "baggage": "k=v"}
	if err := b.Publish("orders", &broker.Message{Header: header, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	h, got := headerCollector()
	subscribe(t, b, "orders", h)
	if r := receive(t, got); !maps.Equal(r.header, header) {
		t.Fatalf("got %v", r.header)
	}
}

func TestTraceHeadersAreSpelledForGoMicrosServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	// go-micro's server is told by the header that go-micro's client sets. Its
	// OTel wrapper then replaces what is there instead of standing beside it.
	header := map[string]string{"Micro-Topic": "orders", "traceparent": "tp", "tracestate": "ts"}
	if err := b.Publish("orders", &broker.Message{Header: header, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	forwarded := make(chan error, 1)
	h, got := headerCollector()
	subscribe(t, b, "orders", func(e broker.Event) error {
		out := maps.Clone(e.Message().Header)
		out["Traceparent"] = "fresh" // as go-micro's wrapper writes it
		forwarded <- b.Publish("orders.next", &broker.Message{Header: out, Body: []byte("y")})
		return h(e)
	})
	if r := receive(t, got); !maps.Equal(r.header, map[string]string{"Micro-Topic": "orders", "Traceparent": "tp", "Tracestate": "ts"}) {
		t.Fatalf("got %v", r.header)
	}
	if err := receive(t, forwarded); err != nil {
		t.Fatal(err)
	}
	if h := natstest.LastMessage(t, js, "ORDERS", "orders.next").Header; len(h["traceparent"]) != 1 || h["traceparent"][0] != "fresh" || len(h["Traceparent"]) != 0 {
		t.Fatalf("on the wire: %v", h)
	}
}

func TestDeliveredHeaderIsNeverNilAndEachDeliverysOwn(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	publish(t, b, "orders", "broker's")
	if _, err := js.Publish(testContext(t), "orders", []byte("plain")); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("orders", &broker.Message{Header: map[string]string{"K": "v"}, Body: []byte("with")}); err != nil {
		t.Fatal(err)
	}
	got := make(chan received, 10)
	subscribe(t, b, "orders", func(e broker.Event) error {
		m := e.Message()
		got <- received{header: maps.Clone(m.Header), own: m.Header, body: string(m.Body)}
		m.Header["Dirt"] = "left by the handler" // panics on nil
		m.Header["K"] = "changed"
		m.Body = append(m.Body[:0], "overwritten"...)
		if jsbroker.NumDelivered(e) < 3 {
			return jsbroker.RetryAfter(10*time.Millisecond, errors.New("again"))
		}
		return nil
	}, broker.Queue("q"))
	want := map[string]map[string]string{"broker's": {}, "plain": {}, "with": {"K": "v"}}
	for range 9 {
		r := receive(t, got)
		if w, ok := want[r.body]; !ok || r.own == nil || !maps.Equal(r.header, w) {
			t.Errorf("%q was delivered with %v", r.body, r.header)
		}
	}
}

func TestForeignContentTypeIsReadableByGoMicro(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	h, got := headerCollector()
	publish(t, b, "orders", "x")
	subscribe(t, b, "orders", h)
	receive(t, got)
	for _, c := range []struct {
		in   nats.Header
		want string
	}{
		{nats.Header{"content-type": {"application/json"}}, "application/json"},
		{nats.Header{"CONTENT-TYPE": {"application/json"}}, "application/json"},
		{nats.Header{"Content-Type": {"application/json"}}, "application/json"},
		{nats.Header{"Content-Type": {"text/plain"}, "content-type": {"application/json"}}, "text/plain"},
		{nats.Header{}, ""},
	} {
		if _, err := js.PublishMsg(testContext(t), &nats.Msg{Subject: "orders", Header: c.in, Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		if r := receive(t, got); r.header["Content-Type"] != c.want {
			t.Errorf("%v arrived as %v", c.in, r.header)
		}
	}
}

func TestRawBodiesAndHeadersAreReadableByAnyClient(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	b := newBroker(t, s)
	body := "\x00\x01\xffraw\r\n"
	if err := b.Publish("orders", &broker.Message{Header: map[string]string{"Key": "value"}, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	m := natstest.LastMessage(t, js, "ORDERS", "orders")
	if string(m.Data) != body || m.Header.Get("Key") != "value" {
		t.Fatalf("stored %q %v", m.Data, m.Header)
	}
}
