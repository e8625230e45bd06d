package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// What is committed is what the generator writes.
func TestCommitted(t *testing.T) {
	const dir = "../../grafana"
	dashboards := all()
	for name, d := range dashboards {
		want, err := d.render()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes: run go generate ./dashboards", name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if dashboards[e.Name()] == nil {
			t.Errorf("%s/%s is not generated", dir, e.Name())
		}
	}
}
