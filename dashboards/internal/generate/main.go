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
	dir := "grafana" // go generate runs in the directory of the directive
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

// all are the dashboards by the name of their file.
func all() map[string]*dashboard {
	return map[string]*dashboard{
		"overview.json":  overview(),
		"consumer.json":  consumer(),
		"publisher.json": publisher(),
		"slo.json":       slo(),
	}
}

func (d *dashboard) render() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // > in a query is to stay readable
	enc.SetIndent("", "  ")
	err := enc.Encode(d)
	return b.Bytes(), err
}
