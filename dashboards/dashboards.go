// Package dashboards embeds Grafana dashboards and Prometheus rules for the
// metrics of go-micro-jetstream/metrics. A service can install the ones that
// match the version it is built with:
//
//	err := os.CopyFS("/var/lib/grafana/dashboards", dashboards.Grafana())
//
// README.md says how to install them and what to do about each alert. The JSON
// is generated: to change it, edit internal/generate and run go generate.
package dashboards

import (
	"embed"
	"io/fs"
)

//go:generate go run ./internal/generate

// The uids of the dashboards. They never change, because links and bookmarks
// depend on them.
const (
	UIDOverview  = "micro-broker-overview"
	UIDConsumer  = "micro-broker-consumer"
	UIDPublisher = "micro-broker-publisher"
	UIDSLO       = "micro-broker-slo"
	UIDFlow      = "micro-broker-flow"
	UIDServer    = "micro-broker-server"
)

//go:embed grafana/*.json
var grafana embed.FS

//go:embed prometheus/rules.yaml
var rules string

// Grafana returns a file system with the dashboards overview.json, flow.json,
// consumer.json, publisher.json, server.json and slo.json, ready to import or to
// provision. They need Grafana 11 or later, and server.json the collector of
// metrics.NewServer.
func Grafana() fs.FS {
	sub, err := fs.Sub(grafana, "grafana")
	if err != nil {
		panic(err) //nolint:forbidigo // cannot happen: the path is a constant
	}
	return sub
}

// Rules returns a Prometheus rule file with recording and alerting rules. It
// needs Prometheus 2.42 or later.
func Rules() string { return rules }
