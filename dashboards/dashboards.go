// Package dashboards holds Grafana dashboards and Prometheus rules for the
// metrics of go-micro-jetstream/metrics, so that a service can ship those of
// the version that it links:
//
//	err := os.CopyFS("/var/lib/grafana/dashboards", dashboards.Grafana())
//
// The JSON is generated: change internal/generate and run go generate. See
// README.md for how to install it, and for what to do about each alert.
package dashboards

import (
	"embed"
	"io/fs"
)

//go:generate go run ./internal/generate

// The uids of the dashboards. They do not change: links and bookmarks depend on
// them.
const (
	UIDOverview  = "micro-broker-overview"
	UIDConsumer  = "micro-broker-consumer"
	UIDPublisher = "micro-broker-publisher"
	UIDSLO       = "micro-broker-slo"
)

//go:embed grafana/*.json
var grafana embed.FS

//go:embed prometheus/rules.yaml
var rules string

// Grafana returns the dashboards as files: overview.json, consumer.json,
// publisher.json and slo.json, ready to be imported or provisioned. They need
// Grafana 11 or later.
func Grafana() fs.FS {
	sub, err := fs.Sub(grafana, "grafana")
	if err != nil {
		panic(err) //nolint:forbidigo // cannot happen: the path is a constant
	}
	return sub
}

// Rules returns a rule file for Prometheus, with recording and alerting rules.
func Rules() string { return rules }
