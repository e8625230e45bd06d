// Package microtls makes go-micro verify TLS certificates. It is imported for its
// side effect. By default go-micro does not verify them, and every program prints
// a warning about this at startup, when go-micro initialises its default HTTP
// broker.
//
// This package must be initialised before go-micro. It is, because Go initialises
// packages in the order of their import paths unless their imports demand another
// order, and this package imports almost nothing.
package microtls

import "os"

// variable tells go-micro whether to verify certificates.
const variable = "MICRO_TLS_SECURE"

func init() {
	if _, set := os.LookupEnv(variable); !set {
		_ = os.Setenv(variable, "true")
	}
}
