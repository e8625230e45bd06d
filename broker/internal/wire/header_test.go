package wire

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

func TestHeadersThatNATSCannotCarry(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"": "empty", "A\r\nB": "v", "A\nB": "v", "A\rB": "v", "A:": "v", "A B": "v", " A": "v", "A\t": "v", "Ä": "v", "A\x00": "v", "A\x7f": "v",
		"Break": "a\r\nForged: b", "Line": "a\nb", "Return": "a\rb", "Nul": "a\x00b",
	}
	for _, c := range separators {
		cases["K"+string(c)] = "v"
	}
	for key, value := range cases {
		if err := CheckHeader(key, value, false); !errors.Is(err, fault.ErrInvalidHeader) || !strings.Contains(err.Error(), fmt.Sprintf("%q", key)) {
			t.Errorf("%q: %v", key, err)
		}
		var h Header
		if _, err := h.Make(map[string]string{"Good": "v", key: value}, "id", false); !errors.Is(err, fault.ErrInvalidHeader) {
			t.Errorf("%q: %v", key, err)
		}
	}
	for key, value := range map[string]string{"Key": "value", "Empty": "", "Unicode": "grüße, 日本", "Tab": "a\tb", "Tilde~!#$%&'*+-.^_`|": "odd but legal", "Colon": "a: b"} {
		if err := CheckHeader(key, value, true); err != nil {
			t.Error(err)
		}
	}
}

func TestStatusHeaderNeedsABody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		key       string
		emptyBody bool
		ok        bool
	}{{"Status", true, false}, {"Status", false, true}, {"status", true, true}, {"Description", true, true}} {
		if err := CheckHeader(tt.key, "404", tt.emptyBody); (err == nil) != tt.ok {
			t.Errorf("%s, empty body %v: %v", tt.key, tt.emptyBody, err)
		}
	}
}

// It must be read back unchanged after the memory was used for another message.
func TestHeaderMakesOneAfterTheOther(t *testing.T) {
	t.Parallel()
	var h Header
	large := map[string]string{}
	for i := range 2 * maxReused {
		large[fmt.Sprintf("K%d", i)] = "v"
	}
	for i, in := range []map[string]string{{"A": "1", "B": "2"}, nil, {"A": "3"}, large, {"C": "4"}, {"A": "", "Traceparent": "x"}} {
		before := maps.Clone(in)
		size, err := h.Make(in, "id", false)
		if err != nil {
			t.Fatal(err)
		}
		want := nats.Header{"Nats-Msg-Id": {"id"}}
		for k, v := range in {
			want[k] = []string{v}
		}
		if _, ok := want["Traceparent"]; ok {
			delete(want, "Traceparent")
			want["traceparent"] = []string{"x"}
		}
		if !reflect.DeepEqual(h.Map(), want) {
			t.Errorf("message %d: got  %v\nwant %v", i, h.Map(), want)
		}
		if m := (&nats.Msg{Header: h.Map()}); size != m.Size() {
			t.Errorf("message %d: %d bytes, want %d", i, size, m.Size())
		}
		if !maps.Equal(in, before) {
			t.Errorf("message %d: the caller's map is now %v", i, in)
		}
		h.Reset()
	}
}

func TestHeaderDoesNotAllocateOnceItHasMemory(t *testing.T) {
	var h Header
	in := map[string]string{"Content-Type": "application/json", "Micro-Topic": "orders", "traceparent": "x", "Traceparent": "y", "tracestate": "z"}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := h.Make(in, "id", false); err != nil {
			t.Fatal(err)
		}
		h.Reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOutgoingHeader(t *testing.T) {
	t.Parallel()
	in := map[string]string{
		"Nats-Rollup": "stays, to be refused", "Natsukashii": "stays", "X-Nats-Y": "stays",
		"Traceparent": "fresh", "traceparent": "stale", "Baggage": "k=v", "Empty": "",
	}
	before := maps.Clone(in)
	want := map[string]string{"Nats-Rollup": "stays, to be refused", "Natsukashii": "stays", "X-Nats-Y": "stays", "traceparent": "fresh", "baggage": "k=v", "Empty": ""}
	if got := OutgoingHeader(in); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if !maps.Equal(in, before) {
		t.Errorf("the caller's map is now %v", in)
	}
	if got := OutgoingHeader(nil); got == nil || len(got) != 0 {
		t.Errorf("of nil: %#v", got)
	}
}

// Nothing that is delivered has a Nats-* header, so somebody has set it.
func TestControlHeadersAreRefused(t *testing.T) {
	t.Parallel()
	for key, hint := range map[string]string{
		"Nats-Msg-Id": "MessageID", "nats-msg-id": "MessageID", "NATS-TTL": "TTL", "Nats-Schedule": "DeliverAt", "Nats-Schedule-Target": "DeliverAfter",
		"Nats-Rollup": "NATS client", "nats-expected-stream": "NATS client", "Nats-Whatever-Comes": "NATS client", "nats-": "NATS client",
	} {
		for _, in := range []map[string]string{{key: "x"}, {key: "x", "Micro-Topic": "orders"}} {
			var h Header
			_, err := h.Make(in, "id", false)
			if !errors.Is(err, fault.ErrInvalidHeader) || !strings.Contains(err.Error(), fmt.Sprintf("%q", key)) || !strings.Contains(err.Error(), hint) {
				t.Errorf("%v: %v", in, err)
			}
		}
	}
}

// What comes from an RPC or from the metadata of a context is left out where NATS
// cannot carry it.
func TestWhatNobodyHasSetByHandIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in      map[string]string
		without []string
		leftOut string
	}{
		{map[string]string{":authority": "shop", ":path": "/x", "K": "v"}, []string{":authority", ":path"}, ""},
		{map[string]string{"trace-bin": "a\nb", "Other-Bin": "\x00", "good-bin": "text", "K": "v"}, []string{"trace-bin", "Other-Bin"}, ""},
		{map[string]string{"Micro-Topic": "orders", "Note": "a\nb", "K": "v"}, []string{"Note"}, "Note"},
		{map[string]string{"Micro-Topic": "orders", "a key": "v", ":path": "/x", "K": "v"}, []string{"a key", ":path"}, "a key"},
		{map[string]string{"Micro-Topic": "orders", "Status": "404", "K": "v"}, []string{"Status"}, "Status"},
	} {
		var h Header
		size, err := h.Make(tt.in, "id", true)
		if err != nil {
			t.Errorf("%v: %v", tt.in, err)
			continue
		}
		want := nats.Header{"Nats-Msg-Id": {"id"}}
		for k, v := range tt.in {
			if !slices.Contains(tt.without, k) {
				want[k] = []string{v}
			}
		}
		if !reflect.DeepEqual(h.Map(), want) || h.LeftOut() != tt.leftOut {
			t.Errorf("got  %v and %q\nwant %v and %q", h.Map(), h.LeftOut(), want, tt.leftOut)
		}
		if m := (&nats.Msg{Header: h.Map()}); size != m.Size() {
			t.Errorf("%v: %d bytes, want %d", tt.in, size, m.Size())
		}
		if h.Reset(); h.LeftOut() != "" {
			t.Errorf("after the reset %q is left out", h.LeftOut())
		}
	}
	for _, key := range []string{"K:", "-bin", "Note"} {
		var h Header
		if _, err := h.Make(map[string]string{key: "a\nb"}, "id", false); !errors.Is(err, fault.ErrInvalidHeader) {
			t.Errorf("%q, set by hand: %v", key, err)
		}
	}
}

func TestAddValues(t *testing.T) {
	t.Parallel()
	original := nats.Header{
		"Many": {"1", "2", "3"}, "One": {"1"}, "Changed": {"1", "2"}, "Gone": {"1", "2"}, "None": {},
		"Nats-X": {"1", "2"}, "traceparent": {"1", "2"}, "Broken": {"1", "a\nb", "3"},
	}
	out := nats.Header{
		"Many": {"1"}, "One": {"1"}, "Changed": {"other"}, "None": {"x"}, "Nats-X": {"1"}, "traceparent": {"1"}, "Broken": {"1"}, "New": {"x"},
	}
	AddValues(out, original)
	want := nats.Header{
		"Many": {"1", "2", "3"}, "One": {"1"}, "Changed": {"other"}, "None": {"x"}, "Nats-X": {"1"}, "traceparent": {"1"}, "Broken": {"1", "3"}, "New": {"x"},
	}
	if !reflect.DeepEqual(out, want) {
		t.Errorf("got  %v\nwant %v", out, want)
	}
}

// The values of a made header share one array: a value that is added to one key
// must not overwrite another key's.
func TestAddValuesToAMadeHeader(t *testing.T) {
	t.Parallel()
	var h Header
	if _, err := h.Make(map[string]string{"A": "1", "B": "1", "C": "1"}, "id", false); err != nil {
		t.Fatal(err)
	}
	AddValues(h.Map(), nats.Header{"A": {"1", "a"}, "B": {"1", "b"}, "C": {"1", "c"}})
	want := nats.Header{"A": {"1", "a"}, "B": {"1", "b"}, "C": {"1", "c"}, "Nats-Msg-Id": {"id"}}
	if !reflect.DeepEqual(h.Map(), want) {
		t.Errorf("got %v", h.Map())
	}
}

func TestIncomingHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in     nats.Header
		want   map[string]string
		traced bool
	}{
		{nil, map[string]string{}, false},
		{nats.Header{"Kept": {"first", "second"}, "None": {}, "Nats-Msg-Id": {"x"}, "nats-lower": {"x"}, "NATS-UPPER": {"x"}}, map[string]string{"Kept": "first"}, false},
		{nats.Header{"content-type": {"json"}}, map[string]string{"Content-Type": "json"}, false},
		{nats.Header{"Content-Type": {"text"}, "CONTENT-TYPE": {"json"}}, map[string]string{"Content-Type": "text", "CONTENT-TYPE": "json"}, false},
		{nats.Header{"traceparent": {"x"}}, map[string]string{"traceparent": "x"}, false},
		{nats.Header{"Micro-Topic": {"x"}}, map[string]string{"Micro-Topic": "x"}, false},
		{nats.Header{"Micro-Topic": {"x"}, "Baggage": {"y"}}, map[string]string{"Micro-Topic": "x", "Baggage": "y"}, true},
	} {
		out, traced := IncomingHeader(tt.in)
		if out == nil || !maps.Equal(out, tt.want) || traced != tt.traced {
			t.Errorf("%v: %v, traced %v", tt.in, out, traced)
		}
	}
}

// FuzzHeader checks that what is accepted travels, and comes back as it was.
func FuzzHeader(f *testing.F) {
	for _, seed := range [][2]string{
		{"Key", "value"}, {"", ""}, {"K:", "v"}, {"K", "a\r\nb"}, {"Nats-Msg-Id", "x"}, {"NATS-x", "y"}, {"Traceparent", "00-1-2-3"}, {"status", "404"}, {"Baggage", ""},
		{"Status", "404"}, {"a/b", "v"}, {"K", " padded\t"}, {"K", "grüße"}, {"content-type", "x"}, {"K", "\x00"}, {"K", "\x85\xa0"}, {"K", "\v\f"},
	} {
		f.Add(seed[0], seed[1], true)
		f.Add(seed[0], seed[1], false)
	}
	f.Fuzz(func(t *testing.T, key, value string, emptyBody bool) {
		in := map[string]string{key: value}
		var h Header
		size, err := h.Make(in, "id", emptyBody)
		if err == nil && len(h.Map()) == 1 && fromTransport(key) {
			return // left out
		}
		if len(in) != 1 || in[key] != value {
			t.Fatalf("the caller's map is now %v", in)
		}
		if err != nil {
			if !errors.Is(err, fault.ErrInvalidHeader) || !strings.Contains(err.Error(), fmt.Sprintf("%q", Shorten(key))) {
				t.Fatalf("%q: %v", key, err)
			}
			return
		}
		if ids := h.Map()[nats.MsgIdHdr]; len(ids) != 1 || ids[0] != "id" {
			t.Fatalf("message id %q", ids)
		}
		encoded := encode(h.Map())
		// With padding, which the client trims, the estimate may be above.
		if actual := (&nats.Msg{Header: h.Map()}).Size(); size < actual || size > actual+len(value) || actual != len(encoded) {
			t.Fatalf("%d bytes on the wire, %d by the check, %d by hand", actual, size, len(encoded))
		}
		decoded, err := nats.DecodeHeadersMsg([]byte(encoded))
		if err != nil {
			t.Fatalf("%q does not decode: %v", encoded, err)
		}
		out, _ := IncomingHeader(decoded)
		want := key
		switch i := traceIndex(key); {
		case i >= 0 && value == "":
			if len(out) != 0 {
				t.Fatalf("%q came through: %v", key, out)
			}
			return
		case i >= 0:
			want = traceHeaders[i]
		case strings.EqualFold(key, contentTypeHeader):
			want = contentTypeHeader
		}
		if got, ok := out[want]; !ok || len(out) != 1 || got != strings.Trim(value, " \t\r\n") {
			t.Fatalf("sent %q: %q, received %q", key, value, out)
		}
	})
}

// encode writes a header as the client does.
func encode(h nats.Header) string {
	encoded := "NATS/1.0\r\n"
	for k, vs := range h {
		encoded += k + ": " + strings.Trim(vs[0], " \t\r\n") + "\r\n"
	}
	return encoded + "\r\n"
}
