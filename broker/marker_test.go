package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// A stream that notes in a message of its own that the last message of a subject has
// expired sends that to consumers as well. Nobody has published it, so no handler gets
// it, and it is out of the way.
func TestDeleteMarkersAreAcknowledgedAndNotHandled(t *testing.T) {
	t.Parallel()
	markers := func(c *jetstream.StreamConfig) {
		c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = true, time.Minute
		c.MaxMsgsPerSubject = 1 // otherwise no message expires sooner than a marker
	}
	for _, tt := range []struct {
		name   string
		topic  string
		make   func(t *testing.T, js jetstream.JetStream)
		stored string // the stream that has the markers
		opts   []broker.SubscribeOption
	}{
		{
			"limits", "orders.>",
			func(t *testing.T, js jetstream.JetStream) {
				makeStream(t, js, "ORDERS", jetstream.LimitsPolicy, markers)
			},
			"ORDERS", nil,
		},
		{
			"work queue, several workers", "orders.>",
			func(t *testing.T, js jetstream.JetStream) {
				makeStream(t, js, "ORDERS", jetstream.WorkQueuePolicy, markers)
			},
			"ORDERS", []broker.SubscribeOption{jsbroker.Concurrency(4)},
		},
		{
			"acks by the handler", "orders.>",
			func(t *testing.T, js jetstream.JetStream) {
				makeStream(t, js, "ORDERS", jetstream.WorkQueuePolicy, markers)
			},
			"ORDERS", []broker.SubscribeOption{broker.DisableAutoAck()},
		},
		{
			"from another stream", "copies.>",
			func(t *testing.T, js jetstream.JetStream) {
				makeStream(t, js, "ORDERS", jetstream.LimitsPolicy, markers)
				natstest.MakeStream(t, js, jetstream.StreamConfig{
					Name: "COPIES", Subjects: []string{"copies.>"}, AllowMsgTTL: true, AllowRollup: true,
					Sources: []*jetstream.StreamSource{{
						Name: "ORDERS", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "orders.>", Destination: "copies.>"}},
					}},
				})
			},
			"COPIES", nil,
		},
		{
			"republished into another stream", "copies.>",
			func(t *testing.T, js jetstream.JetStream) {
				makeStream(t, js, "COPIES", jetstream.LimitsPolicy, func(c *jetstream.StreamConfig) { c.AllowMsgTTL, c.AllowRollup = true, true })
				makeStream(t, js, "ORDERS", jetstream.LimitsPolicy, markers, func(c *jetstream.StreamConfig) {
					c.RePublish = &jetstream.RePublish{Source: "orders.>", Destination: "copies.>"}
				})
			},
			"COPIES", nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			nc, js := natsConn(t, s)
			tt.make(t, js)
			send := func(subject, body string, header nats.Header) {
				t.Helper()
				if _, err := js.PublishMsg(testContext(t), &nats.Msg{Subject: subject, Header: header, Data: []byte(body)}); err != nil {
					t.Fatal(err)
				}
			}
			send("orders.1", "expires", nats.Header{"Nats-TTL": {"1s"}})
			eventually(t, "the marker is stored", func() bool {
				m, err := js.Stream(testContext(t), tt.stored)
				if err != nil {
					t.Fatal(err)
				}
				last, err := m.GetLastMsgForSubject(testContext(t), tt.topic)
				return err == nil && last.Header.Get("Nats-Marker-Reason") != ""
			})
			// These look like markers, and are not.
			send("orders.2", "has a body", nats.Header{"Nats-Marker-Reason": {"MaxAge"}})
			send("orders.3", "", nats.Header{"Marker-Reason": {"MaxAge"}})
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}

			skipped, onSkip := hookChan[jsbroker.Skipped]()
			log := natstest.NewLog()
			b := newBroker(t, s, broker.Logger(log), jsbroker.WithHooks(jsbroker.Hooks{Skipped: onSkip}), jsbroker.WithConsumerConfig(jetstream.ConsumerConfig{}))
			got := make(chan string, 100)
			subscribe(t, b, tt.topic, func(e broker.Event) error {
				got <- e.Topic() + " " + string(e.Message().Body)
				return e.Ack()
			}, append(tt.opts, broker.Queue("q"))...)
			if e := receive(t, skipped); e.Reason != jsbroker.SkipMarker || e.Size != 0 || e.Subject[len(e.Subject)-2:] != ".1" {
				t.Errorf("skipped %+v", e)
			}
			handled := map[string]bool{}
			for range 2 {
				handled[receive(t, got)] = true
			}
			first := tt.topic[:len(tt.topic)-1]
			if !handled[first+"2 has a body"] || !handled[first+"3 "] {
				t.Errorf("handled %v", handled)
			}
			eventually(t, "nothing waits for an ack", func() bool {
				info := natstest.ConsumerInfo(t, js, tt.stored, "q")
				return info.NumAckPending == 0 && info.NumPending == 0
			})
			if len(got) > 0 || len(skipped) > 0 {
				t.Errorf("%d more handled, %d more skipped", len(got), len(skipped))
			}
			if lines := log.AtLeast(logger.WarnLevel); len(lines) > 0 {
				t.Errorf("logged: %v", lines)
			}
		})
	}
}

// makeStream creates a stream of a user for all subjects under its name in lower case.
func makeStream(t *testing.T, js jetstream.JetStream, name string, r jetstream.RetentionPolicy, change ...func(*jetstream.StreamConfig)) {
	t.Helper()
	cfg := jetstream.StreamConfig{Name: name, Subjects: []string{strings.ToLower(name) + ".>"}, Retention: r}
	for _, c := range change {
		c(&cfg)
	}
	natstest.MakeStream(t, js, cfg)
}
