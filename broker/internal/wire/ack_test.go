package wire_test

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/wire"
)

func TestParseMetadata(t *testing.T) {
	t.Parallel()
	want := wire.Metadata{NumDelivered: 2, StreamSequence: 30, ConsumerSequence: 4, StoredAt: 1700000000000000005, Pending: 60}
	for _, reply := range []string{
		"$JS.ACK.ORDERS.q.2.30.4.1700000000000000005.60",
		"$JS.ACK._.ACCOUNT.ORDERS.q.2.30.4.1700000000000000005.60",
		"$JS.ACK.hub.ACCOUNT.ORDERS.q.2.30.4.1700000000000000005.60.token",
		"$JS.ACK.hub.ACCOUNT.ORDERS.q.2.30.4.1700000000000000005.60.token.and.more",
	} {
		if got, err := wire.ParseMetadata(reply); err != nil || got != want {
			t.Errorf("%s: %+v, %v", reply, got, err)
		}
	}
	if id := want.Identity(); id != (wire.Identity{Sequence: 30, StoredAt: 1700000000000000005}) {
		t.Errorf("%+v", id)
	}
	for _, reply := range []string{
		"", "orders", "_INBOX.x.1", "$JS.ACK", "$JS.ACK.", "$JS.ACK.ORDERS.q",
		"$JS.ACK.ORDERS.q.2.30.4.5",                     // too short
		"$JS.ACK.ORDERS.q.2.30.4.5.6.7",                 // neither form
		"$JS.ACK.ORDERS.q.2.x.4.5.6",                    // no number
		"$JS.ACK.ORDERS.q.2..4.5.6",                     // empty
		"$JS.ACK.ORDERS.q.2.30.4.5.6x",                  // more than a number
		"$JS.ACK.ORDERS.q.-2.30.4.5.6",                  // signed
		"$JS.ACK.ORDERS.q.2.99999999999999999999.4.5.6", // beyond 64 bits
		"$JS.API.ORDERS.q.2.30.4.5.6",
	} {
		if got, err := wire.ParseMetadata(reply); !errors.Is(err, wire.ErrNotAckSubject) || got != (wire.Metadata{}) {
			t.Errorf("%s: %+v, %v", reply, got, err)
		}
	}
}

func TestParseMetadataDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, err := wire.ParseMetadata("$JS.ACK.hub.ACCOUNT.ORDERS.q.2.30.4.1700000000000000005.60.token"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseUint(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]uint64{"0": 0, "7": 7, "007": 7, "18446744073709551615": math.MaxUint64} {
		if n, ok := wire.ParseUint(s); !ok || n != want {
			t.Errorf("%q: %d, %v", s, n, ok)
		}
	}
	for _, s := range []string{"", "-1", "+1", "1 ", " 1", "1.0", "x", "1x", "18446744073709551616", "99999999999999999999", "１"} {
		if n, ok := wire.ParseUint(s); ok || n != 0 {
			t.Errorf("%q: %d, %v", s, n, ok)
		}
	}
}

func TestDelayedNak(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		time.Second: `-NAK {"delay":1000000000}`, 0: `-NAK {"delay":0}`, -time.Nanosecond: `-NAK {"delay":-1}`,
	} {
		if got := string(wire.DelayedNak(d)); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestPlainAck(t *testing.T) {
	t.Parallel()
	if n, ok := wire.PlainAck([]byte(`{"stream":"ORDERS","seq":42}`), "ORDERS"); !ok || n != 42 {
		t.Errorf("%d, %v", n, ok)
	}
	if n, ok := wire.PlainAck([]byte(`{"stream":"ORDERS","domain":"hub","seq":42}`), "ORDERS"); !ok || n != 42 {
		t.Errorf("with a domain: %d, %v", n, ok)
	}
	for _, answer := range []string{
		``, `{`, `{}`, `+OK`, `{"stream":"ORDERS","seq":42`, `{"stream":"ORDERS","seq":}`, `{"stream":"ORDERS"}`, `{"stream":"ORDERS","seq":-1}`,
		`{"stream":"ORDERS","seq":42}}`, `{"stream":"ORDERS","seq":99999999999999999999}`,
		`{"stream":"ORDERS","seq":42,"duplicate":true}`, `{"stream":"ORDERS","domain":"hub"}`, `{"stream":"ORDERS","domain":"h\u0075b","seq":42}`,
		`{"stream":"ORDERS2","seq":42}`, `{"stream":"OTHER","seq":42}`, `{"stream":"ORDER","seq":42}`,
		`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"ORDERS","seq":0}`,
	} {
		if n, ok := wire.PlainAck([]byte(answer), "ORDERS"); ok {
			t.Errorf("%s: %d", answer, n)
		}
	}
}

func TestParsePubAck(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]wire.PubAck{
		`{"stream":"ORDERS","seq":42}`:                         {Stream: "ORDERS", Sequence: 42},
		`{"stream":"ORDERS","seq":42,"duplicate":true}`:        {Stream: "ORDERS", Sequence: 42, Duplicate: true},
		`{"stream":"ORDERS", "domain":"hub", "seq":42, "x":1}`: {Stream: "ORDERS", Sequence: 42, Domain: "hub"},
	} {
		if got, err := wire.ParsePubAck(&nats.Msg{Data: []byte(answer)}); err != nil || got != want {
			t.Errorf("%s: %+v, %v", answer, got, err)
		}
	}
	for _, answer := range []string{``, `thank you`, `{}`, `{"seq":42}`, `[]`, `{"stream":7}`, `{"stream":"ORDERS","seq":-1}`} {
		if got, err := wire.ParsePubAck(&nats.Msg{Data: []byte(answer)}); err == nil || !strings.Contains(err.Error(), "not a JetStream acknowledgement") || got != (wire.PubAck{}) {
			t.Errorf("%s: %+v, %v", answer, got, err)
		}
	}
	if _, err := wire.ParsePubAck(&nats.Msg{Data: []byte(`{}`)}); !errors.Is(err, jetstream.ErrInvalidJSAck) {
		t.Error(err)
	}
	var refusal *jetstream.APIError
	_, err := wire.ParsePubAck(&nats.Msg{Data: []byte(`{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"ORDERS","seq":0}`)})
	if !errors.As(err, &refusal) || refusal.ErrorCode != 10077 || refusal.Description != "full" {
		t.Errorf("%v", err)
	}
	nobody := nats.NewMsg("_INBOX.x.1")
	nobody.Header.Set("Status", "503")
	if _, err := wire.ParsePubAck(nobody); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("%v", err)
	}
	nobody.Data = []byte(`{"stream":"ORDERS","seq":42}`) // a header alone means nothing
	if got, err := wire.ParsePubAck(nobody); err != nil || got.Sequence != 42 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStatusError(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status, description string
		want                error
	}{
		{"100", "Idle Heartbeat", nil},
		{"404", "No Messages", wire.ErrBatchDone},
		{"408", "Request Timeout", wire.ErrBatchDone},
		{"409", "Batch Completed", wire.ErrBatchDone},
		{"409", "Message Size Exceeds MaxBytes", jetstream.ErrMaxBytesExceeded},
		{"409", "Consumer Deleted", jetstream.ErrConsumerDeleted},
		{"409", "Leadership Change", jetstream.ErrConsumerLeadershipChanged},
		{"409", "Server Shutdown", jetstream.ErrServerShutdown},
		{"503", "", nats.ErrNoResponders},
	} {
		if err := wire.StatusError(tt.status, tt.description); !errors.Is(err, tt.want) {
			t.Errorf("%s %s: %v", tt.status, tt.description, err)
		}
	}
	for _, tt := range [][2]string{{"409", "Exceeded MaxWaiting"}, {"400", "Bad Request"}, {"", ""}} {
		if err := wire.StatusError(tt[0], tt[1]); err == nil || err.Error() != "the server refused the fetch: "+tt[0]+" "+tt[1] {
			t.Errorf("%q: %v", tt, err)
		}
	}
}

func TestRefusedSubject(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, kind, subject string
		ok                  bool
	}{
		{`Permissions Violation for Publish to "orders.created"`, wire.PublishViolation, "orders.created", true},
		{`Permissions Violation for Subscription to "_INBOX.x.*"`, wire.SubscriptionViolation, "_INBOX.x.*", true},
		{`Permissions Violation for Subscription to "orders" using queue "q"`, wire.SubscriptionViolation, "orders", true},
		{`Permissions Violation for Publish to "gr\u00fc\u00dfe\"\\"`, wire.PublishViolation, `grüße"\`, true},
		{`Permissions Violation for Publish to "orders"`, wire.SubscriptionViolation, "", false},
		{`Permissions Violation for Subscription to "orders"`, wire.PublishViolation, "", false},
		{`Permissions Violation for Publish to orders`, wire.PublishViolation, "", false},
		{`Permissions Violation for Publish to "orders`, wire.PublishViolation, "", false},
		{`something else`, wire.PublishViolation, "", false},
	} {
		subject, ok := wire.RefusedSubject(errors.New("nats: permissions violation: "+tt.text), tt.kind)
		if subject != tt.subject || ok != tt.ok {
			t.Errorf("%s: %q, %v", tt.text, subject, ok)
		}
	}
}

// FuzzAckSubject holds the parser of ack subjects against the client's, which
// reads the same two forms.
func FuzzAckSubject(f *testing.F) {
	for _, seed := range []string{
		"", "$JS.ACK.ORDERS.q.2.30.4.5.60", "$JS.ACK.hub.ACCOUNT.ORDERS.q.2.30.4.5.60.token", "$JS.ACK._.ACCOUNT.ORDERS.q.2.30.4.5.60",
		"$JS.ACK.ORDERS.q.2.30.4.5.6.7", "$JS.ACK.......", "$JS.ACK.ORDERS.q.2.18446744073709551616.4.5.60", "$JS.ACK.ORDERS.q.1.1.1.1.-1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		meta, err := wire.ParseMetadata(reply)
		if err != nil {
			if !errors.Is(err, wire.ErrNotAckSubject) || meta != (wire.Metadata{}) {
				t.Fatalf("%q: %+v, %v", reply, meta, err)
			}
			return
		}
		m := nats.NewMsg("orders")
		m.Reply, m.Sub = reply, &nats.Subscription{}
		theirs, err := m.Metadata()
		if err != nil {
			t.Fatalf("%q: the client says %v", reply, err)
		}
		if meta.StreamSequence != theirs.Sequence.Stream || meta.ConsumerSequence != theirs.Sequence.Consumer || meta.NumDelivered != theirs.NumDelivered ||
			meta.Pending != theirs.NumPending || meta.StoredAt != theirs.Timestamp.UnixNano() {
			t.Fatalf("%q: %+v, the client says %+v", reply, meta, theirs)
		}
	})
}

// FuzzPubAck holds the quick reader of acknowledgements against the thorough one.
func FuzzPubAck(f *testing.F) {
	for _, seed := range []string{
		`{"stream":"ORDERS","seq":42}`, `{"stream":"ORDERS","seq":42,"duplicate":true}`, `{"stream":"ORDERS","seq":042}`, `{"stream":"ORDERS","seq":18446744073709551616}`,
		`{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"ORDERS","seq":0}`, `{"stream":"ORDERS","seq":`, `{}`, ``, `null`, `{"stream":"ORDERS","seq":1,"seq":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sequence, plain := wire.PlainAck(data, "ORDERS")
		ack, err := wire.ParsePubAck(&nats.Msg{Data: data})
		if err == nil && ack.Stream == "" {
			t.Fatalf("%q: an acknowledgement without a stream", data)
		}
		if err != nil && ack != (wire.PubAck{}) {
			t.Fatalf("%q: %+v and %v", data, ack, err)
		}
		if plain && err == nil && ack != (wire.PubAck{Stream: "ORDERS", Sequence: sequence}) {
			t.Fatalf("%q: %d, and thoroughly %+v", data, sequence, ack)
		}
		if plain && string(data) != `{"stream":"ORDERS","seq":`+strconv.FormatUint(sequence, 10)+`}` && err == nil {
			t.Fatalf("%q is read as %d", data, sequence)
		}
	})
}

// FuzzRefusedSubject checks that a subject comes out of the server's text as it
// went in.
func FuzzRefusedSubject(f *testing.F) {
	for _, seed := range []string{"orders", `a"b`, `a\b`, "grüße", "\x00", "\xff", `Publish to "x"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		violation := errors.New("nats: permissions violation: Permissions Violation for Publish to " + strconv.Quote(subject))
		if got, ok := wire.RefusedSubject(violation, wire.PublishViolation); !ok || got != subject {
			t.Fatalf("%q: %q, %v", subject, got, ok)
		}
	})
}
