package wire_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// Many short headers, or many values of one, weigh what they take in memory.
func TestWeightCountsHeaders(t *testing.T) {
	t.Parallel()
	keys, values := nats.Header{}, nats.Header{}
	for i := range 13000 {
		keys[fmt.Sprintf("%03x", i)] = []string{""}
		values["k"] = append(values["k"], "")
	}
	for name, h := range map[string]nats.Header{"keys": keys, "values": values} {
		m := &nats.Msg{Subject: "orders", Header: h}
		if n := wire.Weight(m); n < 1<<20 {
			t.Errorf("13,000 %s weigh %d bytes", name, n)
		}
	}
	m := &nats.Msg{Subject: "orders", Data: make([]byte, 1000)}
	if n := wire.Weight(m); n != m.Size() {
		t.Errorf("a body weighs %d bytes of %d", n, m.Size())
	}
}

func TestTraceIDIsHexadecimal(t *testing.T) {
	t.Parallel()
	const good = "0123456789abcdef0123456789abcdef"
	for id, want := range map[string]string{
		good: good, strings.ToUpper(good): "", strings.Repeat("0", 32): "", strings.Repeat("x", 32): "",
		"<script>alert(1)</script>0123456": "", strings.Repeat("\n", 32): "", good[1:] + "é"[:1]: "",
	} {
		if got := wire.TraceID(map[string]string{"traceparent": "00-" + id + "-0123456789abcdef-01"}); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

// Whoever sees a reply subject may answer with a text of any size.
func TestTextsOfAnswersAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<20)
	_, err := wire.ParsePubAck(&nats.Msg{Data: fmt.Appendf(nil, `{"error":{"code":503,"err_code":10077,"description":"%s"}}`, long)})
	for name, err := range map[string]error{
		"refusal":           err,
		"status":            wire.StatusError("409", long),
		"strange status":    wire.StatusError(long, ""),
		"answer of the API": fault.API(&jetstream.APIError{Code: 400, ErrorCode: 10001, Description: long}),
		"offline":           fault.API(&jetstream.APIError{Code: 503, ErrorCode: 10119, Description: long}),
		"violation":         fault.Permission(fmt.Errorf("%s", long)),
	} {
		if err == nil || len(err.Error()) > 5000 {
			t.Errorf("%s: an error of %d bytes", name, len(fmt.Sprint(err)))
		}
	}
	for _, answer := range []string{`{"stream":"%s","seq":1}`, `{"stream":"S","domain":"%s","seq":1}`, `{"stream":"%s","seq":1, "duplicate":true}`} {
		if ack, err := wire.ParsePubAck(&nats.Msg{Data: fmt.Appendf(nil, answer, long)}); err == nil {
			t.Errorf("%.20s: taken for an acknowledgement by a stream of %d bytes", answer, len(ack.Stream))
		}
	}
}
