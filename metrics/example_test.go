package metrics_test

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/metrics"
)

// A broker whose metrics are served for Prometheus, exemplars included.
func ExampleNew() {
	reg := prometheus.NewRegistry()
	b := jsbroker.NewBroker(
		broker.Addrs("nats://localhost:4222"),
		jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))),
	)
	if err := b.Connect(); err != nil { // reports what New could not do, too
		return
	}
	defer b.Disconnect()

	http.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	_ = http.ListenAndServe(":9100", nil)
}

// Two brokers for two clusters in one process: a label tells them apart.
func ExampleWithRegisterer() {
	for cluster, url := range map[string]string{
		"eu": "nats://eu.example.com:4222",
		"us": "nats://us.example.com:4222",
	} {
		reg := prometheus.WrapRegistererWith(prometheus.Labels{"cluster": cluster}, prometheus.DefaultRegisterer)
		_ = jsbroker.NewBroker(
			broker.Addrs(url),
			jsbroker.WithHooks(metrics.New(metrics.WithRegisterer(reg))),
		)
	}
}
