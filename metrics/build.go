package metrics

import (
	"reflect"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// newBuildInfo returns the metric that says of which version this module is, and of
// which Go. They are what the program was built with, and do not change.
func newBuildInfo() prometheus.Metric {
	version, goversion := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goversion = label(info.GoVersion)
		version = label(moduleVersion(info, strings.TrimSuffix(reflect.TypeFor[collector]().PkgPath(), "/metrics")))
	}
	return prometheus.MustNewConstMetric(desc("build_info", "Always 1. The version of the broker's module and of Go that the program was built with.", "version", "goversion"),
		prometheus.GaugeValue, 1, version, goversion)
}

// moduleVersion returns the version of a module that the program was built with. It is
// "(devel)" in a checkout.
func moduleVersion(info *debug.BuildInfo, path string) string {
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path != path {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version != "" {
			return m.Version
		}
	}
	return "(devel)"
}
