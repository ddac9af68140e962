"""Moving bytes: from the sources of a blob to a file that is whole and verified, whatever goes wrong between."""
