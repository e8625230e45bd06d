package asset

import (
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// CopyTemplate returns a copy of a stream template that shares nothing with it.
func CopyTemplate(cfg jetstream.StreamConfig) *jetstream.StreamConfig {
	cfg.Subjects = slices.Clone(cfg.Subjects)
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.SubjectTransform = clone(cfg.SubjectTransform)
	cfg.RePublish = clone(cfg.RePublish)
	cfg.Mirror = copySource(cfg.Mirror)
	cfg.Sources = slices.Clone(cfg.Sources)
	for i, source := range cfg.Sources {
		cfg.Sources[i] = copySource(source)
	}
	if cfg.Placement = clone(cfg.Placement); cfg.Placement != nil {
		cfg.Placement.Tags = slices.Clone(cfg.Placement.Tags)
	}
	return &cfg
}

func copySource(source *jetstream.StreamSource) *jetstream.StreamSource {
	if source = clone(source); source == nil {
		return nil
	}
	source.OptStartTime = clone(source.OptStartTime)
	source.External = clone(source.External)
	source.SubjectTransforms = slices.Clone(source.SubjectTransforms)
	return source
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
