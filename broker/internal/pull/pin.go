package pull

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/wire"
)

// Pin returns the id that the server has given the subscriber that it serves, if this is
// the one. Otherwise it is empty. Deliveries bring it, and requests carry it (ADR-42).
func (p *Pull) Pin() string { return p.pin }

// Unpin forgets the pin if it is this one: the next request has none.
func (p *Pull) Unpin(pin string) {
	if p.pin == pin {
		p.pin = ""
	}
}

// Repin has requests carry a pin that the server knows after all.
func (p *Pull) Repin(pin string) { p.pin = pin }

// Lose forgets a pin for good. What it has brought, and what has not been looked at yet,
// is not for this subscription any more; see [Pull.Lost].
func (p *Pull) Lose(pin string) {
	p.Unpin(pin)
	p.lost = pin
}

// Lost reports whether a delivery was made with a pin that was lost since.
func (p *Pull) Lost(m *nats.Msg) bool {
	return p.lost != "" && m.Header.Get(wire.PinHeader) == p.lost
}

// Renewal returns a request that tells the server that the pinned subscriber is there. It
// brings no message: none is as small as its bound. The answer goes to
// [Pull.ListenRenewals].
func (p *Pull) Renewal(cs *consumers.Consumer) (Request, bool) {
	if p.pin == "" {
		return Request{}, false
	}
	body := requestBody{Batch: 1, MaxBytes: 1, NoWait: true, Group: cs.Group(), ID: p.pin}
	return Request{subject: p.conn.API(cs.Next()), body: body}, true
}

// ListenRenewals has lost called with a pin that the server does not know, and kept with
// one that it has renewed, and when it was asked to. Refused is called when the consumer has
// no pins any more, or does not answer: it may have been deleted, and another replica may
// have made it again.
func (p *Pull) ListenRenewals(lost func(pin string), kept func(pin string, asked time.Time), refused func()) (*link.Listener, error) {
	return p.conn.Listen(func(nc *nats.Conn) (*nats.Subscription, error) {
		return nc.Subscribe(p.inbox+renewals+"*", func(m *nats.Msg) {
			pin, sent, _ := strings.Cut(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], "-")
			switch status := m.Header.Get("Status"); {
			case errors.Is(wire.StatusError(status, ""), wire.ErrNotPinned):
				lost(pin)
			case status == "404" || status == "408" || status == "409": // there is no message, or none so small
				if n, ok := wire.ParseUint(sent); ok {
					kept(pin, epoch.Add(time.Duration(n)))
				}
			case status == "400" || status == "503":
				refused()
			}
		})
	})
}

// renewals follows the inbox in the subject of answers to renewals. The pin follows, and
// when the request was sent.
const renewals = "-pin."

// epoch is from when on the times of renewals are counted.
var epoch = time.Now()

// reply returns where the answers to a request go.
func (p *Pull) reply(r Request) string {
	if r.body.NoWait {
		return p.inbox + renewals + r.body.ID + "-" + strconv.FormatInt(int64(time.Since(epoch)), 10)
	}
	return p.inbox + "." + strconv.FormatUint(r.number, 10)
}
