package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/companion"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
)

// minorTTL is of the first nats-server with allow_msg_ttl.
const minorTTL = 11

// Later returns where messages of the topic wait that are delivered later. The stream is
// the topic's. For one of this module it makes the companion, and has the stream source it.
func (ss *Streams) Later(ctx context.Context, rules *asset.Rules, s *asset.Stream, topic string) (*asset.Later, error) {
	if l := companion.Known(s); l != nil {
		return l, nil
	}
	if err := companion.CheckMapped(s, topic); err != nil {
		return nil, err
	}
	if err := ss.ensuring.acquire(ctx); err != nil {
		return nil, err
	}
	defer ss.ensuring.release()
	if l := companion.Known(s); l != nil {
		return l, nil
	}
	return ss.companions.Place(ctx, s, s.Ours && !rules.NeverCreateStreams)
}

// Cancel takes back the message with that id that waits for the topic. It returns
// fault.ErrNotScheduled if there is none, or if it falls due meanwhile.
func (ss *Streams) Cancel(ctx context.Context, rules *asset.Rules, topic, id string) error {
	stream, err := ss.waitsFor(ctx, rules, topic)
	if err != nil {
		return err
	}
	return ss.companions.Cancel(ctx, stream, topic, id)
}

// WithTTL returns the stream when it removes messages whose time to live is over. A
// stream of this module is changed for that.
func (ss *Streams) WithTTL(ctx context.Context, rules *asset.Rules, s *asset.Stream) (*asset.Stream, error) {
	if s.TTL {
		return s, nil
	}
	if err := ss.ensuring.acquire(ctx); err != nil {
		return nil, err
	}
	defer ss.ensuring.release()
	sc, err := ss.Config(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	if version := ss.ServerOf(sc); !link.AtLeast(version, minorTTL, 0) {
		return nil, fmt.Errorf("%w: a time to live needs nats-server 2.%d, and that of stream %s is %s", fault.ErrUnsupported, minorTTL, s.Name, version)
	}
	changed := !sc.AllowMsgTTL
	if changed {
		if !s.Ours || rules.NeverCreateStreams {
			return nil, fmt.Errorf("%w: stream %s lacks allow_msg_ttl, and the broker does not change it: have its owner set the flag", fault.ErrUnsupported, s.Name)
		}
		sc, err = ss.Edit(ctx, s.Name, func(sc *jetstream.StreamConfig) bool {
			missing := !sc.AllowMsgTTL
			sc.AllowMsgTTL = true
			return missing
		})
		if err != nil {
			return nil, err
		}
		if !sc.AllowMsgTTL {
			return nil, fmt.Errorf("%w: the server of stream %s does not know allow_msg_ttl: use nats-server 2.%d", fault.ErrUnsupported, s.Name, minorTTL)
		}
		ss.conn.Log().Info(fmt.Sprintf("stream %s has allow_msg_ttl now, because a message with a time to live is published", s.Name), "stream", s.Name)
	}
	now, err := ss.Info(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	if changed {
		ss.companions.Relink(ctx, now)
	}
	ss.cache.add(now)
	return now, nil
}

// waitsFor names the stream that messages of the topic wait for. If that is gone, it is
// the one that would be made now: it would get from a companion that has outlived the
// former one what falls due.
func (ss *Streams) waitsFor(ctx context.Context, rules *asset.Rules, topic string) (string, error) {
	if s := ss.Known(topic); s != nil {
		return s.Name, nil
	}
	s, err := ss.Existing(ctx, topic)
	switch {
	case err == nil:
		return s.Name, nil
	case !errors.Is(err, fault.ErrStreamNotFound):
		return "", err
	}
	sc, err := ss.named(ctx, rules, topic).StreamConfig(topic)
	switch {
	case errors.Is(err, fault.ErrInvalidConfig): // the name is not known, as its function failed
		return "", err
	case err != nil: // there can be no such stream
		return "", fault.ErrNotScheduled
	}
	return sc.Name, nil
}
