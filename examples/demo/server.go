package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/examples/internal/natsurl"
	"go-micro-jetstream/examples/natsserver"
)

// mark is in the metadata of the streams that the demo makes.
const mark = "go-micro-jetstream-demo"

// claimTimeout ends the wait of a demo that may not ask for others.
const claimTimeout = 10 * time.Second

// natsServer is the server that the demo runs on.
type natsServer struct {
	url      string
	describe string
	close    func()
}

// openServer starts the embedded server, or makes the one at NATS_URL ready.
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

// streamTemplate is the broker's default with the demo's mark.
func streamTemplate() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Retention: jetstream.WorkQueuePolicy,
		Storage:   jetstream.FileStorage,
		Metadata:  map[string]string{mark: "1"},
	}
}

// claim makes sure that no other demo runs on the server, and that none begins
// to before the connection is closed: two would take each other's orders. Each
// first answers on a subject, then asks there: of two that begin at the same
// time at least one hears of the other, if not both.
func claim(url string) (*nats.Conn, error) {
	nc, err := nats.Connect(url, nats.Name("demo-setup"), nats.MaxReconnects(-1), nats.NoEcho()) // it must not hear itself
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
		return nil, fmt.Errorf("another demo is running at %s: wait for its end, or use another server", natsurl.Redact(url))
	}
	return nil, fmt.Errorf("cannot ask at %s, on the subject %s, whether another demo is running: %w", natsurl.Redact(url), subject, err)
}

// removeStreams removes what an earlier run has left on a server, so that the count
// begins at zero. Whoever else has streams for these topics has messages in
// them that the demo would take away: then it does not start.
func removeStreams(nc *nats.Conn, url string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// First look at all, then delete: a refusal leaves everything as it was.
	var ours []string
	for _, topic := range []string{ordersCreated, paymentsTaken, shippingSent, deadLetters} {
		name, err := js.StreamNameBySubject(ctx, topic)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil // no JetStream, or no permission: the brokers say it better
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

// mayDelete reports why a stream must stay.
func mayDelete(ctx context.Context, js jetstream.JetStream, name string) error {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("cannot be looked up: %w", err)
	}
	if _, ours := stream.CachedInfo().Config.Metadata[mark]; !ours {
		return errors.New("was not made by the demo, which would take its messages: use another server, or leave NATS_URL unset")
	}
	return nil
}
