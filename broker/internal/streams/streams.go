// Package streams finds, creates and remembers the streams that publications and
// subscriptions need.
package streams

import (
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/companion"
	"go-micro-jetstream/broker/internal/elsewhere"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streamapi"
)

// Streams is what one connection knows of the server's streams, and the way to find
// and make more of them. It is safe for concurrent use.
type Streams struct {
	*streamapi.API
	conn       *link.Conn
	elsewhere  *elsewhere.Finder
	companions *companion.Companions // guarded by ensuring
	cache      cache
	ensuring   slot                // held by who looks up, creates, changes or forgets a stream
	followed   map[string]followed // by name; guarded by ensuring
	naming     naming
}

// New returns a Streams that knows no stream yet. It sends nothing.
func New(conn *link.Conn) *Streams {
	api := streamapi.New(conn)
	return &Streams{
		API:        api,
		conn:       conn,
		elsewhere:  elsewhere.New(conn, api),
		companions: companion.New(conn, api),
		ensuring:   make(slot, 1),
		followed:   map[string]followed{},
		naming:     newNaming(),
	}
}

// Known returns the stream that captures the topic, or nil if none is known. It
// sends no request, takes no lock and does not allocate.
func (ss *Streams) Known(topic string) *asset.Stream { return ss.cache.find(topic) }

// Rules are [asset.Rules].
type Rules = asset.Rules
