package dashboards_test

import (
	"fmt"
	"io/fs"
	"log"

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
	// Output: [consumer.json overview.json publisher.json slo.json]
}
