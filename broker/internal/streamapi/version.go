package streamapi

import (
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
)

// serverVersion is the metadata in which a server says its version, since nats-server
// 2.11 (ADR-44).
const serverVersion = "_nats.ver"

// minorPins is of the first nats-server with consumers that serve one subscriber at a time.
const minorPins = 11

// ServerOf returns the version of the server that a stream is on. That need not be the
// one that the client is connected to, such as a leaf node. Before nats-server 2.11 it
// does not say, and the connected one is taken for it where both have one JetStream.
func (a *API) ServerOf(sc jetstream.StreamConfig) string {
	switch version := sc.Metadata[serverVersion]; {
	case version != "":
		return version
	case a.conn.Remote():
		return "2.10 or earlier"
	}
	return a.conn.NATS().ConnectedServerVersion()
}

// CheckSingleActive reports that the server of a stream cannot have one of all subscribers
// of a consumer get messages: it would take the consumer without the policy for that.
func (a *API) CheckSingleActive(s *asset.Stream) error {
	if version := a.ServerOf(s.Config); !link.AtLeast(version, minorPins, 0) {
		return fmt.Errorf("%w: SingleActive needs nats-server 2.%d, and that of stream %s is %s", fault.ErrUnsupported, minorPins, s.Name, version)
	}
	return nil
}
