// Package register, imported for its effect, lets users choose this broker when
// they start a go-micro service, as they choose go-micro's own:
//
//	import _ "go-micro-jetstream/broker/register"
//
//	MICRO_BROKER=jetstream MICRO_BROKER_ADDRESS=nats://nats:4222 ./service
//	./service --broker=jetstream --broker_address=nats://nats:4222
//
// The broker has no options then but the address. A service that passes a
// jetstream broker of its own to micro.Broker keeps that, and gets the address.
//
// It is a package of its own because go-micro's cmd brings all of go-micro's
// plugins with it.
package register

import (
	"go-micro.dev/v5/cmd"

	jsbroker "go-micro-jetstream/broker"
)

func init() { cmd.DefaultBrokers["jetstream"] = jsbroker.NewBroker }
