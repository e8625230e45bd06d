package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestCoversAndOverlaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, topic string
		covers         bool
		overlaps       bool
	}{
		{"orders", "orders", true, true},
		{"orders", "users", false, false},
		{"orders", "orders.created", false, false},
		{"orders.created", "orders", false, false},
		{"orders.>", "orders", false, false},
		{"orders.>", "orders.created", true, true},
		{"orders.>", "orders.eu.created", true, true},
		{"orders.>", "orders.*", true, true},
		{"orders.>", "orders.>", true, true},
		{"orders.*", "orders.created", true, true},
		{"orders.*", "orders.eu.created", false, false},
		{"orders.*", "orders.*", true, true},
		{"orders.*", "orders.>", false, true},
		{"orders.created", "orders.*", false, true},
		{"orders.created", "orders.>", false, true},
		{"orders.*.created", "orders.eu.*", false, true},
		{"orders.*.created", "orders.eu.created", true, true},
		{"orders.*.created", "orders.eu.paid", false, false},
		{"orders.*.*", "orders.*", false, false},
		{"orders.*.>", "orders.*", false, false},
		{"orders.*.>", "orders.>", false, true},
		{"*", "orders", true, true},
		{"*", "orders.created", false, false},
		{"*.created", "orders.created", true, true},
		{"*.created", "orders.*", false, true},
		{">", "orders", true, true},
		{">", "orders.>", true, true},
		{">", ">", true, true},
		{"orders.>", ">", false, true},
		{"*.>", ">", false, true},
		{"orders.cr*", "orders.created", false, false},
		{"Orders", "orders", false, false},
	} {
		if got := covers(c.pattern, c.topic); got != c.covers {
			t.Errorf("covers(%q, %q) is %v", c.pattern, c.topic, got)
		}
		if got := overlaps(c.pattern, c.topic); got != c.overlaps {
			t.Errorf("overlaps(%q, %q) is %v", c.pattern, c.topic, got)
		}
		if got := overlaps(c.topic, c.pattern); got != c.overlaps {
			t.Errorf("overlaps(%q, %q) is %v", c.topic, c.pattern, got)
		}
		// The server's own word on it.
		if got := server.SubjectsCollide(c.pattern, c.topic); got != c.overlaps {
			t.Errorf("the server says that the collision of %q and %q is %v", c.pattern, c.topic, got)
		}
	}
}

func TestCoversDoesNotAllocate(t *testing.T) {
	patterns := []string{"users.>", "orders.*.paid", "orders", "orders.>"}
	if n := testing.AllocsPerRun(100, func() {
		if !coversAny(patterns, "orders.eu.created") {
			t.Fatal("not covered")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDefaultStreamName(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string]string{
		"orders":             "ORDERS",
		"orders.created":     "ORDERS",
		"orders.*":           "ORDERS",
		"user-events.login":  "USER_EVENTS",
		"user_events.login":  "USER_EVENTS",
		"a-b-c.d-e":          "A_B_C",
		"go.micro.srv.x":     "GO",
		"größe.x":            "GRÖSSE",
		"already_UPPER-9.xx": "ALREADY_UPPER_9",
	} {
		if topic == "größe.x" {
			want = strings.ToUpper("größe") // whatever Go makes of it
		}
		if got := defaultStreamName(topic); got != want {
			t.Errorf("%s: %s, want %s", topic, got, want)
		}
	}
}

func TestDurableNamesAreReadableLegalAndDistinct(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxNameLength)
	queues := []string{"q", "q-orders", "q-orders_created", "workers", long, strings.Repeat("ü", maxNameLength/2)}
	topics := []string{
		"orders", "orders.created", "orders_created", "orders.*", "orders.any", "orders.>", "orders.all", "orders.a/b", `orders.a\b`, "orders.a_b",
		"orders-created", "created", strings.Repeat("x.", 127) + "x", strings.Repeat("y", maxNameLength), strings.Repeat("ü", maxNameLength/2),
	}
	seen := map[string]string{}
	for _, q := range queues {
		for _, topic := range topics {
			name, what := durableName(q, topic), fmt.Sprintf("%s on %s", q, topic)
			if err := checkAssetName(name); err != nil {
				t.Errorf("%s: %q: %v", what, name, err)
			}
			if other, ok := seen[name]; ok {
				t.Errorf("%s and %s share the name %q", what, other, name)
			}
			seen[name] = what
			if name != durableName(q, topic) {
				t.Errorf("%s: not the same twice", what)
			}
		}
	}
	// Replicas of all versions must agree on it: it may never change.
	for want, in := range map[string][2]string{
		"workers-orders_paid-": {"workers", "orders.paid"},
		"workers-orders_any-":  {"workers", "orders.*"},
		"workers-orders_all-":  {"workers", "orders.>"},
	} {
		name := durableName(in[0], in[1])
		if !strings.HasPrefix(name, want) || len(name) != len(want)+8 {
			t.Errorf("%v: %q", in, name)
		}
	}
	if name := durableName("workers", "orders.paid"); name != "workers-orders_paid-4a5854b8" {
		t.Errorf("the name has changed to %q: replicas of another version would not find it", name)
	}
}

func TestTraceHeaderSpelling(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"traceparent": "traceparent", "Traceparent": "traceparent", "TRACESTATE": "tracestate", "Baggage": "baggage", "B3": "b3",
		"X-B3-TraceId": "x-b3-traceid", "Uber-Trace-Id": "uber-trace-id", "": "", "traceparen": "", "traceparents": "", "b4": "", "X-B3-Flags": "x-b3-flags",
	} {
		if got := traceName(key); got != want {
			t.Errorf("%q: %q", key, got)
		}
	}
	for _, h := range traceHeaders { // the lengths in its switch
		if traceName(strings.ToUpper(h)) != h {
			t.Errorf("%s is not recognised", h)
		}
	}
}

// FuzzTopic holds the check of topics against the server's.
func FuzzTopic(f *testing.F) {
	for _, seed := range []string{"", "orders", "orders.created", "a..b", ".a", "a.", "a b", "a.*", "a.>", "a.>.b", "*.a", "a*", "$JS.API", "_INBOX.x", "ü.ö", "a\u2028b", "a\x00", strings.Repeat("x", 256), "a.b/c", "\ufeffx"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		publishErr, subscribeErr := checkPublishTopic(topic), checkSubscribeTopic(topic)
		for _, err := range []error{publishErr, subscribeErr} {
			if err != nil && (!errors.Is(err, ErrInvalidTopic) || len(err.Error()) > 600) {
				t.Fatalf("%q: %v", topic, err)
			}
		}
		if publishErr == nil && subscribeErr != nil {
			t.Fatalf("%q can be published to, but not subscribed to: %v", topic, subscribeErr)
		}
		if publishErr == nil && (!server.IsValidLiteralSubject(topic) || strings.ContainsAny(topic, " \t\r\n\x00")) {
			t.Fatalf("%q is not a subject", topic)
		}
		if subscribeErr != nil {
			return
		}
		if !server.IsValidSubject(topic) {
			t.Fatalf("%q is not a subject pattern", topic)
		}
		token := firstToken(topic)
		if !coversAny([]string{token, token + ".>"}, topic) {
			t.Fatalf("the stream of %q would not capture it", topic)
		}
		if !covers(topic, topic) || !overlaps(topic, topic) {
			t.Fatalf("%q does not cover itself", topic)
		}
		if name := durableName("q", topic); strings.ContainsAny(name, " \t\r\n\f.*>\\/") || len(name) > maxNameLength {
			t.Fatalf("%q: durable name %q", topic, name)
		}
		cfg, err := newConfig(applied(NewBroker().Options(), nil))
		if err != nil {
			t.Fatal(err)
		}
		sc, err := cfg.streamConfigFor(topic)
		if err != nil {
			if !errors.Is(err, ErrInvalidTopic) {
				t.Fatalf("%q: %v", topic, err)
			}
			return
		}
		if strings.ContainsAny(sc.Name, " \t\r\n\f.*>\\/") || len(sc.Name) > maxNameLength {
			t.Fatalf("%q: stream name %q", topic, sc.Name)
		}
	})
}

// FuzzQueue holds the check of queue names against the server's rule.
func FuzzQueue(f *testing.F) {
	for _, seed := range []string{"", "q", "order-processor", "a.b", "a b", "a*", "a>", `a\b`, "a/b", "ü", "\u2028", "a\x00b", "\xff", strings.Repeat("x", 256)} {
		f.Add(seed, "orders.created")
	}
	f.Fuzz(func(t *testing.T, queue, topic string) {
		err := checkQueue(queue)
		if err != nil {
			if !errors.Is(err, ErrInvalidQueue) {
				t.Fatalf("%q: %v", queue, err)
			}
			return
		}
		if queue == "" || len(queue) > maxNameLength || strings.ContainsAny(queue, " \t\r\n\f.*>\\/") {
			t.Fatalf("the server does not accept %q", queue)
		}
		if checkSubscribeTopic(topic) != nil {
			return
		}
		if name := durableName(queue, topic); name == queue || len(name) > maxNameLength || !utf8.ValidString(name) || strings.ContainsAny(name, " \t\r\n\f.*>\\/") {
			t.Fatalf("%q on %q: durable name %q", queue, topic, name)
		}
	})
}

// FuzzHeader checks that what is accepted travels, and comes back as it was.
func FuzzHeader(f *testing.F) {
	for _, seed := range [][2]string{
		{"Key", "value"}, {"", ""}, {"K:", "v"}, {"K", "a\r\nb"}, {"Nats-Msg-Id", "x"}, {"NATS-x", "y"}, {"Traceparent", "00-1-2-3"}, {"status", "404"},
		{"Status", "404"}, {"a/b", "v"}, {"K", " padded\t"}, {"K", "grüße"}, {"content-type", "x"}, {"K", "\x00"}, {"K", "\x85\xa0"}, {"K", "\v\f"},
	} {
		f.Add(seed[0], seed[1], true)
		f.Add(seed[0], seed[1], false)
	}
	f.Fuzz(func(t *testing.T, key, value string, emptyBody bool) {
		in := map[string]string{key: value}
		var w wireHeader
		size, err := w.make(in, "id", emptyBody)
		wire := w.header
		if len(in) != 1 || in[key] != value {
			t.Fatalf("the caller's map is now %v", in)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalidHeader) || !strings.Contains(err.Error(), fmt.Sprintf("%q", shorten(key))) {
				t.Fatalf("%q: %v", key, err)
			}
			return
		}
		if len(wire[nats.MsgIdHdr]) != 1 || wire[nats.MsgIdHdr][0] != "id" {
			t.Fatalf("message id %q", wire[nats.MsgIdHdr])
		}
		m := &nats.Msg{Header: wire}
		encoded := "NATS/1.0\r\n"
		for k, vs := range wire {
			encoded += k + ": " + strings.Trim(vs[0], " \t\r\n") + "\r\n" // as the client does
		}
		encoded += "\r\n"
		// With padding, which the client trims, the estimate may be above.
		if actual := m.Size(); size < actual || size > actual+len(value) || actual != len(encoded) {
			t.Fatalf("%d bytes on the wire, %d by the check, %d by hand", actual, size, len(encoded))
		}
		decoded, err := nats.DecodeHeadersMsg([]byte(encoded))
		if err != nil {
			t.Fatalf("%q does not decode: %v", encoded, err)
		}
		out, _ := incomingHeader(decoded)
		if isNATSHeader(key) {
			if len(out) != 0 {
				t.Fatalf("%q came through: %v", key, out)
			}
			return
		}
		want := key
		switch {
		case traceName(key) != "":
			want = traceName(key)
		case strings.EqualFold(key, contentTypeHeader):
			want = contentTypeHeader
		}
		if got, ok := out[want]; !ok || len(out) != 1 || got != strings.Trim(value, " \t\r\n") {
			t.Fatalf("sent %q: %q, received %q", key, value, out)
		}
		if slices.Contains(traceHeaders[:], want) && traceName(want) != want {
			t.Fatal("a trace header that is not one")
		}
	})
}

// traceName returns the lower-case name of a trace header, or "".
func traceName(key string) string {
	if i := traceIndex(key); i >= 0 {
		return traceHeaders[i]
	}
	return ""
}
