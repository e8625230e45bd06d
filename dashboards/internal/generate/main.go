// Command generate writes the dashboards in ../../grafana:
//
//	go generate ./dashboards
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := "grafana" // go generate runs in the directory of the file with the directive
	for name, d := range all() {
		text, err := d.render()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "generate:", err)
			os.Exit(1)
		}
	}
}

// all returns the dashboards by file name.
func all() map[string]*dashboard {
	return map[string]*dashboard{
		"overview.json":  overview(),
		"consumer.json":  consumer(),
		"publisher.json": publisher(),
		"slo.json":       slo(),
		"flow.json":      flow(),
		"server.json":    server(),
	}
}

func (d *dashboard) render() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // keeps > readable in queries
	enc.SetIndent("", "  ")
	err := enc.Encode(d)
	return b.Bytes(), err
}
