package metrics

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// serverDescs are the metrics of a [Server].
type serverDescs struct {
	up, truncated *prometheus.Desc
	stream        streamDescs
	consumer      consumerDescs
}

// streamDescs are those of a stream.
type streamDescs struct {
	info, messages, bytes, maxMessages, maxBytes, oldest, consumers, letters *prometheus.Desc
}

// consumerDescs are those of a consumer.
type consumerDescs struct {
	pending, ackPending, maxAckPending, waiting, redelivered, delivered, paused, pausedUntil, created *prometheus.Desc
}

func newServerDescs() serverDescs {
	stream := func(name, help string, more ...string) *prometheus.Desc {
		return desc("stream_"+name, help, append([]string{"stream"}, more...)...)
	}
	consumer := func(name, help string) *prometheus.Desc {
		return desc("consumer_"+name, help, "stream", "consumer", "topic", "queue")
	}
	return serverDescs{
		up:        desc("server_up", "1 if the server has answered all of the latest questions about streams and consumers, else 0."),
		truncated: desc("server_truncated", "1 if there are more streams or consumers than the limits of the collector permit, else 0."),
		stream: streamDescs{
			info:        stream("info", "Always 1. The retention of the stream, and what it discards when it is full.", "retention", "discard"),
			messages:    stream("messages", "Messages in the stream."),
			bytes:       stream("bytes", "Bytes in the stream."),
			maxMessages: stream("max_messages", "How many messages the stream may hold. Missing if there is no limit."),
			maxBytes:    stream("max_bytes", "How many bytes the stream may hold. Missing if there is no limit."),
			oldest:      stream("oldest_message_timestamp_seconds", "When the oldest message of the stream was stored, in Unix time. Missing while the stream is empty."),
			consumers:   stream("consumers", "Consumers of the stream."),
			letters:     stream("dead_letters", "Dead letters in the stream, on the dead-letter topic of the broker.", "topic"),
		},
		consumer: consumerDescs{
			pending:       consumer("pending", "Messages in the stream that were not yet delivered to this consumer."),
			ackPending:    consumer("ack_pending", "Messages delivered to any subscriber of this consumer and not settled."),
			maxAckPending: consumer("max_ack_pending", "How large ack_pending may become before the server delivers nothing new. Missing if there is no bound."),
			waiting:       consumer("waiting", "Requests for messages that wait for some. Missing for push consumers, which have none."),
			redelivered:   consumer("redelivered", "Messages that were delivered more than once and are not settled."),
			delivered:     consumer("delivered_total", "Deliveries of this consumer, to any subscriber."),
			paused:        consumer("paused", "1 while the consumer is paused, else 0."),
			pausedUntil:   consumer("paused_until_timestamp_seconds", "When the pause ends, in Unix time. Missing while there is none."),
			created:       consumer("created_timestamp_seconds", "When the consumer was made, in Unix time."),
		},
	}
}

func (d *serverDescs) describe(ch chan<- *prometheus.Desc) {
	s, c := &d.stream, &d.consumer
	for _, one := range []*prometheus.Desc{
		d.up, d.truncated,
		s.info, s.messages, s.bytes, s.maxMessages, s.maxBytes, s.oldest, s.consumers, s.letters,
		c.pending, c.ackPending, c.maxAckPending, c.waiting, c.redelivered, c.delivered, c.paused, c.pausedUntil, c.created,
	} {
		ch <- one
	}
}

// collect sends what is not older than that.
func (d *serverDescs) collect(ch chan<- prometheus.Metric, state *serverState, keep time.Duration) {
	gauge(ch, d.up, flag(state.complete))
	gauge(ch, d.truncated, flag(state.truncated))
	for i := range state.streams {
		st := &state.streams[i]
		if st.info != nil && time.Since(st.at) < keep {
			d.stream.collect(ch, st)
		}
		if l := &st.letters; l.topic != "" && time.Since(l.at) < keep {
			gauge(ch, d.stream.letters, float64(l.count), label(st.name), label(l.topic))
		}
		for _, c := range st.consumers {
			if time.Since(c.at) < keep {
				d.consumer.collect(ch, c.info)
			}
		}
	}
}

func (d *streamDescs) collect(ch chan<- prometheus.Metric, st *streamState) {
	cfg, state := &st.info.Config, &st.info.State
	name := label(cfg.Name)
	gauge(ch, d.info, 1, name, retention(cfg.Retention), discard(cfg.Discard))
	gauge(ch, d.messages, float64(state.Msgs), name)
	gauge(ch, d.bytes, float64(state.Bytes), name)
	if cfg.MaxMsgs > 0 {
		gauge(ch, d.maxMessages, float64(cfg.MaxMsgs), name)
	}
	if cfg.MaxBytes > 0 {
		gauge(ch, d.maxBytes, float64(cfg.MaxBytes), name)
	}
	if state.Msgs > 0 {
		gauge(ch, d.oldest, seconds(state.FirstTime), name)
	}
	gauge(ch, d.consumers, float64(state.Consumers), name)
}

func (d *consumerDescs) collect(ch chan<- prometheus.Metric, c *jetstream.ConsumerInfo) {
	labels := []string{label(c.Stream), label(c.Name), label(topicOf(&c.Config)), label(queueOf(&c.Config))}
	gauge(ch, d.pending, float64(c.NumPending), labels...)
	gauge(ch, d.ackPending, float64(c.NumAckPending), labels...)
	if c.Config.MaxAckPending > 0 {
		gauge(ch, d.maxAckPending, float64(c.Config.MaxAckPending), labels...)
	}
	if c.Config.DeliverSubject == "" {
		gauge(ch, d.waiting, float64(c.NumWaiting), labels...)
	}
	gauge(ch, d.redelivered, float64(c.NumRedelivered), labels...)
	ch <- prometheus.MustNewConstMetric(d.delivered, prometheus.CounterValue, float64(c.Delivered.Consumer), labels...)
	gauge(ch, d.paused, flag(c.Paused), labels...)
	if c.Paused && c.Config.PauseUntil != nil {
		gauge(ch, d.pausedUntil, seconds(*c.Config.PauseUntil), labels...)
	}
	gauge(ch, d.created, seconds(c.Created), labels...)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func retention(r jetstream.RetentionPolicy) string {
	switch r {
	case jetstream.InterestPolicy:
		return "interest"
	case jetstream.WorkQueuePolicy:
		return "workqueue"
	default:
		return "limits"
	}
}

func discard(d jetstream.DiscardPolicy) string {
	if d == jetstream.DiscardNew {
		return "new"
	}
	return "old"
}
