package link

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reach knows whether somebody answers for JetStream's API while the connection is up.
// Nobody does while the link of a leaf node is cut, for example. Requests for messages
// die with that, and their inboxes stay silent. The zero value is ready; it is safe for
// concurrent use.
type reach struct {
	lost   atomic.Bool   // nobody has answered lately
	times  atomic.Uint64 // how often it has come back
	probed atomic.Int64  // when somebody has last looked, since the connection was born
}

// heard takes in how a request has ended.
func (c *Conn) heard(err error) {
	var api *jetstream.APIError
	switch r := &c.calls.reach; {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		if c.Up() {
			r.lost.Store(true)
		}
	case err == nil || errors.As(err, &api):
		c.Reached()
	}
}

// Reached notes that JetStream has answered. If nobody did before, that counts as a new
// connection: [Conn.State] returns another number, and those that wait wake.
func (c *Conn) Reached() {
	r := &c.calls.reach
	if r.lost.Load() && r.lost.CompareAndSwap(true, false) {
		r.times.Add(1)
		c.Wake()
	}
}

// HasAnswered reports whether there was JetStream when the connection was made. If nobody
// answers now, somebody may soon.
func (c *Conn) HasAnswered() bool { return c.calls.api.told.Load() != nil }

// probeSpacing is the least time between two looks of [Conn.MayProbe].
const probeSpacing = 100 * time.Millisecond

// MayProbe reports whether one of those that wait may look whether the server answers
// again. All together look ten times a second at most.
func (c *Conn) MayProbe() bool {
	r, now := &c.calls.reach, int64(time.Since(c.Born()))
	last := r.probed.Load()
	return (last == 0 || now-last >= int64(probeSpacing)) && r.probed.CompareAndSwap(last, now)
}
