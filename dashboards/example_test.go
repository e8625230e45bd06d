package dashboards_test

import (
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"go-micro-jetstream/dashboards"
)

// A service can write the dashboards to where Grafana's provisioning reads them
// with os.CopyFS, or serve them with http.FileServerFS.
func ExampleGrafana() {
	files, err := fs.Glob(dashboards.Grafana(), "*.json")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(files)
	// Output: [consumer.json flow.json overview.json publisher.json server.json slo.json]
}

// The rules belong where rule_files of Prometheus looks.
func ExampleRules() {
	dir, err := os.MkdirTemp("", "rules")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "go-micro-jetstream.yaml")
	fmt.Println(os.WriteFile(path, []byte(dashboards.Rules()), 0o600))
	// Output: <nil>
}
