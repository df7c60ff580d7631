"""Who a patient is, what was taken out, who may lawfully read, and the record of both."""
