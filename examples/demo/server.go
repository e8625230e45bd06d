package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/examples/natsserver"
	"go-micro-jetstream/examples/natsurl"
)

// mark is a key in the metadata of the streams that the demo creates.
const mark = "go-micro-jetstream-demo"

// claimTimeout limits the wait for other demos to answer. It matters when the user
// lacks the permission to ask.
const claimTimeout = 10 * time.Second

// natsServer is the server that the demo runs on.
type natsServer struct {
	url      string
	describe string // for people, without credentials
	close    func()
}

// openServer starts the embedded server, or prepares the one at NATS_URL.
func openServer() (*natsServer, error) {
	if url := os.Getenv("NATS_URL"); url != "" {
		nc, err := claim(url)
		if err != nil {
			return nil, err
		}
		if err := removeStreams(nc, url); err != nil {
			nc.Close()
			return nil, err
		}
		return &natsServer{url: url, describe: natsurl.Redact(url), close: nc.Close}, nil
	}
	s, err := natsserver.Start()
	if err != nil {
		return nil, err
	}
	return &natsServer{
		url:      s.URL(),
		describe: fmt.Sprintf("%s (embedded nats-server %s)", s.URL(), natsserver.Version),
		close:    s.Stop,
	}, nil
}

// streamTemplate is the default configuration of the broker, plus the mark.
func streamTemplate() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Retention: jetstream.WorkQueuePolicy,
		Storage:   jetstream.FileStorage,
		Metadata:  map[string]string{mark: "1"},
	}
}

// claim makes sure that no other demo runs on the server, because two demos would
// take each other's orders. It holds until the returned connection is closed.
//
// Each demo first listens on a subject, and then asks there whether anybody else
// does. So if two demos start at the same time, at least one of them learns of the
// other, and perhaps both.
func claim(url string) (*nats.Conn, error) {
	nc, err := nats.Connect(url, nats.Name("demo-setup"), nats.MaxReconnects(-1), nats.NoEcho()) // it must not answer itself
	if err != nil {
		return nil, natsurl.Explain(url, err)
	}
	const subject = mark + ".running"
	if _, err = nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(nil) }); err == nil {
		_, err = nc.Request(subject, nil, claimTimeout)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return nc, nil
	}
	nc.Close()
	if err == nil {
		return nil, fmt.Errorf("another demo is running at %s: wait until it has ended, or use another server", natsurl.Redact(url))
	}
	return nil, fmt.Errorf("cannot ask at %s, on the subject %s, whether another demo is running: %w", natsurl.Redact(url), subject, err)
}

// removeStreams deletes the streams of an earlier run, so that the count begins at
// zero. If somebody else has a stream for one of the topics, it returns an error,
// because the demo would consume the messages in that stream.
func removeStreams(nc *nats.Conn, url string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// Check all streams before deleting any, so that an error changes nothing.
	var ours []string
	for _, topic := range []string{ordersCreated, paymentsTaken, shippingSent, deadLetters} {
		name, err := js.StreamNameBySubject(ctx, topic)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil // no JetStream or no permission: the brokers report it with a better error
		}
		if err := mayDelete(ctx, js, name); err != nil {
			return fmt.Errorf("stream %s at %s captures %s and %w", name, natsurl.Redact(url), topic, err)
		}
		ours = append(ours, name)
	}
	for _, name := range ours {
		if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s of an earlier run: %w", name, err)
		}
	}
	return nil
}

// mayDelete returns why a stream must not be deleted, or nil.
func mayDelete(ctx context.Context, js jetstream.JetStream, name string) error {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("cannot be looked up: %w", err)
	}
	if _, ours := stream.CachedInfo().Config.Metadata[mark]; !ours {
		return errors.New("was not created by the demo, which would consume its messages: use another server, or unset NATS_URL")
	}
	return nil
}
