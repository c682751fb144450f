//! Property bag of a topic ⇄ AMQP properties; pure.
