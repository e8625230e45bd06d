package consumers

import (
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// CopyTemplate returns a copy of a consumer template that shares nothing with it.
func CopyTemplate(cfg jetstream.ConsumerConfig) *jetstream.ConsumerConfig {
	cfg.BackOff = slices.Clone(cfg.BackOff)
	cfg.FilterSubjects = slices.Clone(cfg.FilterSubjects)
	cfg.PriorityGroups = slices.Clone(cfg.PriorityGroups)
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.OptStartTime = clone(cfg.OptStartTime)
	cfg.PauseUntil = clone(cfg.PauseUntil)
	return &cfg
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
